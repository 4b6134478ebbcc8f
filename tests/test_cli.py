"The command line end to end, on a small synthetic forest: one run in a few steps, killed in the middle, continued, scored."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

TINY = """
extends: rfcx_2nd_stage_cpu
model: {trunk: test_resnet.r160_in1k}
clip: {window: 128, overlap: 16}
mel: {n_mels: 64}
folds: {n: 2}
stage1: {epochs: 3, workers: 0, precision: 32-true, sample: {refused: 6, anywhere: 6}}
stage2: {epochs: 1, workers: 0, precision: 32-true, sample: {refused: 6, anywhere: 6}}
cycle: {epochs: 1, workers: 0, precision: 32-true, sample: {refused: 6, anywhere: 6}}
precision: 32-true
"""


def rfcx(*args, check=True, **more):
    "Call the command line in a process of its own."
    command = [str(Path(sys.executable).parent / "rfcx"), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"}, **more)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a forest of 12 + 4 recordings of 15 s, a tiny recipe, and a run of it."
    place = tmp_path_factory.mktemp("cli")
    (place / "tiny.yaml").write_text(TINY)
    rfcx("synth", place / "forest", "--train", 12, "--test", 4, "--seconds", 15, "--tp-per-species", 3)
    done = rfcx("run", "--corpus", place / "forest", "--recipe", place / "tiny.yaml", "--out", place / "run")
    (place / "said.txt").write_text(done.stdout)
    return place


def test_run_leaves_everything(place):
    said = (place / "said.txt").read_text()
    for stage in ("stage1", "stage2", "cycle1"):
        assert f"{stage}: LWLRAP of the test half against the complete truth" in said
    for name in ("recipe.yaml", "environment.json", "folds.csv", "oof.parquet", "labels.parquet", "submission.csv", "problems.csv", "report.html", "scores.csv"):
        assert (place / "run" / name).stat().st_size > 0, name
    assert len(pd.read_csv(place / "run/scores.csv")) == 3
    labels = pd.read_parquet(place / "run/labels.parquet")
    assert set(labels.cycle) == {0, 1} and set(labels[labels.cycle == 1].source) == {"relabel:1"}
    sample = pd.read_csv(place / "forest/sample_submission.csv")
    submission = pd.read_csv(place / "run/submission.csv")
    assert list(submission) == list(sample) and list(submission.recording_id) == list(sample.recording_id)


def test_second_call_does_nothing_again(place):
    before = {p: p.stat().st_mtime_ns for p in (place / "run").glob("*/*/model.pt")}
    assert len(before) == 6
    rfcx("run", "--corpus", place / "forest", "--recipe", place / "tiny.yaml", "--out", place / "run")
    assert before == {p: p.stat().st_mtime_ns for p in (place / "run").glob("*/*/model.pt")}


def test_another_recipe_in_the_same_folder_is_refused(place):
    done = rfcx("run", "--corpus", place / "forest", "--recipe", place / "tiny.yaml", "--out", place / "run", "--stage1.lr", "0.5", check=False)
    assert done.returncode == 1 and "stage1.lr: 0.001 -> 0.5" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("when", ["store", "stage1/last.ckpt", "test/stage1/journal.jsonl"])
def test_killed_run_ends_like_an_undisturbed_one(place, tmp_path, when):
    command = [str(Path(sys.executable).parent / "rfcx"), "run", "--corpus", str(place / "forest"), "--recipe", str(place / "tiny.yaml"), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    pattern = {"store": "store/*/*.npy"}.get(when, f"**/{when}")
    deadline = time.time() + 1800
    while not any((tmp_path / "run").glob(pattern)) and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run/submission.csv").exists()
    rfcx(*command[1:])
    mine, whole = (pd.read_csv(folder / "submission.csv", index_col=0) for folder in (tmp_path / "run", place / "run"))
    np.testing.assert_allclose(mine, whole, atol=1e-6)


def test_folds_side_by_side_end_with_their_parent_and_go_on(place, tmp_path):
    command = [str(Path(sys.executable).parent / "rfcx"), "run", "--corpus", str(place / "forest"), "--recipe", str(place / "tiny.yaml"), "--out", str(tmp_path / "run")]
    two = {**os.environ, "OMP_NUM_THREADS": "2"}  # two cores: two folds at once
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=two)
    deadline = time.time() + 1800
    while not any((tmp_path / "run").glob("fold*/stage1/last.ckpt")) and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    family = lambda: subprocess.run(["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(family()) >= 3, "the folds were to be trained in processes of their own"
    process.kill()
    process.wait()
    deadline = time.time() + 120
    while family() and time.time() < deadline:
        time.sleep(0.2)
    assert not family(), "trainings go on without the program that started them"
    done = subprocess.run(command, capture_output=True, text=True, env=two)
    assert done.returncode == 0, done.stderr
    mine, whole = (pd.read_csv(folder / "submission.csv", index_col=0) for folder in (tmp_path / "run", place / "run"))
    np.testing.assert_allclose(mine, whole, atol=1e-6)


def test_parts(place, tmp_path):
    rfcx("train", "--corpus", place / "forest", "--recipe", place / "tiny.yaml", "--out", tmp_path / "parts", "--stage", "stage1", "--fold", '["fold0"]')
    assert [p.parent.parent.name for p in (tmp_path / "parts").glob("*/stage1/model.pt")] == ["fold0"]
    assert "positive" in rfcx("relabel", place / "run").stdout
    assert (place / "run/labels-cycle1.csv").exists()
    done = rfcx("predict", place / "run", "--corpus", place / "forest", "--out", tmp_path / "all.csv", "--precision", "32-true")
    assert "16 recordings scored" in done.stdout
    scores, submission = pd.read_csv(tmp_path / "all.csv", index_col=0), pd.read_csv(place / "run/submission.csv", index_col=0)
    np.testing.assert_allclose(scores.loc[submission.index], submission, atol=5e-3)  # the store rounds mels to float16
    done = rfcx("score", place / "run/submission.csv", "--truth", place / "forest/truth_test.csv", "--species")
    told = pd.read_csv(place / "run/scores.csv").test_truth_lwlrap.iloc[-1]
    assert f"lwlrap       {told:.4f}" in done.stdout
    assert rfcx("check-submission", place / "run/submission.csv", place / "forest/sample_submission.csv").returncode == 0
    submission.iloc[1:].to_csv(tmp_path / "short.csv")
    refused = rfcx("check-submission", tmp_path / "short.csv", place / "forest/sample_submission.csv", check=False)
    assert refused.returncode == 1 and "1 rows are missing" in refused.stdout


def test_files_of_any_length(place, tmp_path):
    import soundfile as sf

    wave, rate = sf.read(next((place / "forest/test").glob("*.flac")))
    sf.write(tmp_path / "short.wav", wave[: rate // 2], rate)
    sf.write(tmp_path / "long.wav", np.tile(wave, 5), rate)
    (tmp_path / "empty.wav").write_bytes(b"")
    done = rfcx("predict", place / "run", tmp_path / "short.wav", tmp_path / "long.wav", tmp_path / "empty.wav", "--out", tmp_path / "out.csv")
    assert "2 recordings scored, 1 could not be read" in done.stdout
    assert pd.read_csv(tmp_path / "out.csv.problems.csv").reason.tolist() == ["empty file"]
    assert pd.read_csv(tmp_path / "out.csv", index_col=0).notna().all(axis=None)


def test_bad_sound_is_the_same_report_for_any_workers(place, tmp_path, real):
    bad = sorted((real / "bad").iterdir())
    good = sorted((place / "forest/test").glob("*.flac"))[:2]
    pd.DataFrame({"path": [str(p) for p in bad + good], "split": "test"}).to_csv(tmp_path / "files.csv", index=False)
    reports = []
    for workers in (0, 2):
        out = tmp_path / f"scores{workers}.csv"
        rfcx("predict", place / "run", "--corpus", tmp_path / "files.csv", "--out", out, "--workers", workers)
        reports.append(pd.read_csv(f"{out}.problems.csv", keep_default_na=False))
        assert len(pd.read_csv(out)) == 2
    assert len(reports[0]) == 8 and reports[0].equals(reports[1])
    stopped = rfcx("predict", place / "run", "--corpus", tmp_path / "files.csv", "--out", tmp_path / "s.csv", "--on-problem", "stop", check=False)
    assert stopped.returncode == 1 and "Traceback" not in stopped.stderr


def test_real_recordings_without_a_test_half(place, tmp_path, real):
    done = rfcx("run", "--corpus", real / "rfcx", "--recipe", place / "tiny.yaml", "--out", tmp_path / "rfcx", "--cycles", 0, "--stage1.epochs", 1)
    assert "have no sound here" in done.stdout and "scored out of fold, as there is no test half" in done.stdout
    assert len(pd.read_csv(tmp_path / "rfcx/submission.csv")) == 16


def test_mistakes_are_one_sentence(place, tmp_path):
    for args, said in (
        (["run", "--corpus", tmp_path, "--out", tmp_path / "x"], "a corpus is a folder with"),
        (["run", "--corpus", place / "forest", "--recipe", "nothing", "--out", tmp_path / "x"], "no recipe 'nothing'"),
        (["run", "--corpus", place / "forest", "--recipe", "demo", "--out", tmp_path / "x", "--stage1.epoch", "3"], "stage1.epoch"),
        (["run", "--corpus", place / "forest", "--recipe", "demo", "--out", tmp_path / "x", "--stage1.epochs", "many"], "epochs"),
        (["run", "--corpus", place / "forest", "--recipe", "demo", "--out", tmp_path / "x", "--mel.f_max", "2000"], "2000"),
        (["run", "--corpus", place / "forest", "--recipe", "demo", "--out", tmp_path / "x", "--relabel.match", "odds"], "give relabel.prior"),
        (["run", "--corpus", place / "forest", "--recipe", "demo", "--out", tmp_path / "x", "--relabel.prior", tmp_path / "no.csv"], "no prior"),
        (["predict", tmp_path, "a.wav"], "no models there"),
        (["score", tmp_path / "no.csv", "--truth", "t.csv"], "no.csv"),
    ):
        done = rfcx(*args, check=False)
        assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr, (args, done.stderr)
