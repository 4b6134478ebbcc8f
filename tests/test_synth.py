"The synthetic rainforest: seeded to the byte, resumable, and like the real tables."
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from rfcx_kit.labels.corpus import conflicts, read_rfcx
from rfcx_kit.sound.synth import COLUMNS, N_SPECIES, confirmed, plan, refused, synthesize, truth_table


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("forest") / "c", train=20, test=5, seconds=20, workers=2)


def test_same_seed_same_bytes(forest, tmp_path):
    again = synthesize(tmp_path / "again", train=20, test=5, seconds=20, workers=1)
    other = synthesize(tmp_path / "other", train=20, test=5, seconds=20, seed=2)
    assert contents(again) == contents(forest)
    different = [name for name, data in contents(other).items() if data == contents(forest)[name]]
    assert different == ["species.txt", "sample_submission.csv"] or set(different) == {"species.txt", "sample_submission.csv"}


def test_kill_half_way(forest, tmp_path):
    code = "import sys; from rfcx_kit.sound.synth import synthesize; synthesize(sys.argv[1], train=20, test=5, seconds=20)"
    command = [sys.executable, "-c", code, str(tmp_path / "killed")]
    child = subprocess.Popen(command)
    start = time.time()
    done = lambda: [p for p in (tmp_path / "killed").glob("train/*.flac") if not p.name.startswith(".")]
    while len(done()) < 6 and time.time() - start < 1200:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 6 <= len(done()) < 20
    subprocess.run(command, check=True)
    assert contents(tmp_path / "killed") == contents(forest)


def test_another_folder_is_left_alone(forest, tmp_path):
    with pytest.raises(ValueError, match="other settings"):
        synthesize(forest, train=21, test=5, seconds=20)
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(ValueError, match="not empty"):
        synthesize(tmp_path, train=2, test=1, seconds=5)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_it_is_a_corpus(forest):
    corpus = read_rfcx(forest)
    assert len(corpus.train.recordings) == 20 and len(corpus.test.recordings) == 5 and corpus.n_species == N_SPECIES == 24
    assert (corpus.recordings.path != "").all() and set(corpus.recordings.sample_rate) == {48_000} and set(corpus.recordings.seconds) == {20.0}
    for name in ("train", "test"):
        truth = pd.read_csv(forest / f"truth_{name}.csv")
        assert list(truth) == COLUMNS + ["snr_db"] and set(truth.recording_id) <= set(corpus.recordings.index)


def test_boxes_are_like_the_real_ones():
    plans = {f"r{i:04d}": plan(1, "train", i) for i in range(400)}
    truth = truth_table(plans)
    tp = confirmed(plans, np.random.default_rng(0), 20)
    fp = refused(plans, np.random.default_rng(1), 6.0)
    boxes = pd.concat([tp, fp])
    length = boxes.t_max - boxes.t_min
    assert 0.3 < length.min() < 0.7 and 7 < length.max() < 8 and boxes.f_min.min() >= 93 and boxes.f_max.max() <= 13_700
    assert (boxes.t_min >= 0).all() and (boxes.t_max <= 60.0001).all() and (boxes.f_max > boxes.f_min).all()
    assert boxes.groupby(["species_id", "songtype_id"]).f_min.nunique().max() == 1 # a template each
    assert len(boxes.groupby(["species_id", "songtype_id"])) == 26
    assert 2.8 < truth.groupby("recording_id").species_id.nunique().mean() < 3.5
    assert len(tp) < 0.2 * len(truth) and len(fp) > 3 * len(tp) # most calls are unlabelled
    assert not fp.duplicated().any() and not tp.duplicated().any()
    notes = pd.concat([tp.assign(presence=1.0), fp.assign(presence=0.0)], ignore_index=True)
    assert not len(conflicts(notes.assign(weight=1.0, source="expert")))


def test_every_call_is_as_loud_as_the_truth_says(forest):
    "Among loud calls the band of the box is louder while it lasts than in the quietest second of the recording."
    truth = pd.read_csv(forest / "truth_train.csv").query("snr_db > 8 and f_min > 400")
    for row in truth.head(10).itertuples():
        wave, rate = sf.read(forest / f"train/{row.recording_id}.flac")
        power = np.abs(np.fft.rfft(wave.reshape(-1, rate // 10), axis=1)) ** 2 # tenths of a second
        band = power[:, int(row.f_min / 10) : int(row.f_max / 10)].sum(1)
        inside = band[int(row.t_min * 10) + 1 : int(row.t_max * 10)]
        if len(inside): assert 10 * np.log10(inside.max() / np.quantile(band, 0.1)) > 5
