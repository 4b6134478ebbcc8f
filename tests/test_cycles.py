"Cycles of re-labelling as people live with them: a run killed again and again ends the same, and what a person corrects is learnt by the next cycle."
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

RECIPE = """
model: {trunk: resnet18, trunk_options: {channels: [4, 4, 8, 8]}}
mel: {n_mels: 16, n_fft: 1024, hop_length: 1024}
clip: {window: 64, overlap: 8}
folds: {n: 2}
stage1: &base {epochs: 1, batch_size: 8, precision: 32-true, validate_every: 0, sample: {refused: 6, anywhere: 6}, loss: {unknown: absent}}
stage2: {epochs: 0}
cycles: 3
relabel: {policy: soft, threshold: 0.0}
cycle: *base
precision: 32-true
"""

# All imports once; then a child by fork runs and dies by kill -9 as its n-th file is about to appear, or has appeared: in the store, a checkpoint,
# a score, a table of labels. The next child goes on, until one comes to its end.
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from rfcx_kit.recipe import load_recipe
from rfcx_kit.stages.runs import open_run, run_stages

def go_on(after, replaced):
    count, replace = 0, os.replace
    def mortal(a, b, *more, **named):
        nonlocal count
        count += 1
        if count == after and not replaced: os.kill(os.getpid(), signal.SIGKILL)
        replace(a, b, *more, **named)
        if count == after: os.kill(os.getpid(), signal.SIGKILL)
    os.replace = mortal
    run_stages(open_run(sys.argv[1], sys.argv[2], load_recipe(sys.argv[3]), workers=1, progress=False, say=lambda _: None))

ends = []
for n, after in enumerate([*map(int, sys.argv[4:]), -1]):
    child = os.fork()
    if not child:
        try: go_on(after, n % 2)
        except BaseException:
            import traceback; traceback.print_exc(); os._exit(1)
        os._exit(0)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(ends)
"""


def run_killed(folder: Path, place: Path, *after: int) -> list[int]:
    "Exit codes of the processes that a run took; -9 is a killed one."
    command = [sys.executable, "-c", KILLED, folder, place / "forest", place / "tiny.yaml", *after]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    ends = [int(e) for e in done.stdout.strip().strip("[]").split(",")]
    assert 1 not in ends, done.stderr
    return ends


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A forest of 8 + 3 recordings of 10 s, a recipe of three cycles, and an undisturbed run of it."
    if not hasattr(os, "fork"):
        pytest.skip("the processes to be killed are made by fork")
    from rfcx_kit.sound.synth import synthesize

    place = tmp_path_factory.mktemp("cycles")
    (place / "tiny.yaml").write_text(RECIPE)
    synthesize(place / "forest", train=8, test=3, seed=1, seconds=10, tp_per_species=3)
    assert run_killed(place / "run", place) == [0]
    return place


def contents(folder: Path) -> list[pd.DataFrame]:
    "The labels and the submission of a run."
    return [pd.read_parquet(folder / "labels.parquet"), pd.read_csv(folder / "submission.csv", index_col=0)]


def test_three_cycles_killed_again_and_again_end_the_same(place, tmp_path):
    ends = run_killed(tmp_path / "run", place, 4, 30, 41, 28, 37, 22, 52, 9)
    assert ends.count(-9) >= 6 and ends[-1] == 0
    labels, submission = contents(tmp_path / "run")
    whole_labels, whole_submission = contents(place / "run")
    assert set(labels.cycle) == {0, 1, 2, 3}
    pd.testing.assert_frame_equal(labels, whole_labels)
    np.testing.assert_allclose(submission, whole_submission, atol=1e-6)


def test_a_corrected_raven_table_changes_the_next_cycle(place, tmp_path):
    "Export, a person moves one call and strikes another, import: the next cycle learns it, and its model is another."
    from rfcx_kit.cli import main

    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    assert main(["labels", "use", "2", "--run", str(run)]) == 0
    assert main(["labels", "export", "2", str(tmp_path / "out"), "--run", str(run)]) == 0
    present = lambda path: [k for k, p in enumerate(pd.read_csv(path, sep="\t").Presence) if p > 0.5]
    path = max((tmp_path / "out").glob("*.raven.txt"), key=lambda p: len(present(p)))
    table, (first, *_, struck) = pd.read_csv(path, sep="\t", dtype=str), present(path)
    table.loc[first, "End Time (s)"] = str(float(table.loc[first, "End Time (s)"]) + 0.5)
    table.drop(index=struck).to_csv(path, sep="\t", index=False)
    assert main(["labels", "import", str(path), "--cycle", "2", "--run", str(run)]) == 0
    assert run_killed(run, place) == [0]

    before, after = (pd.read_parquet(r / "labels/cycle3.parquet") for r in (place / "run", run))
    reviews = after[after.source == "review"]
    assert not (before.source == "review").any() and len(reviews) == 2
    assert abs(reviews[reviews.presence == 1].t_max.item() - float(table.loc[first, "End Time (s)"])) < 1e-6
    assert abs(reviews[reviews.presence == 0].t_min.item() - float(table.loc[struck, "Begin Time (s)"])) < 1e-6  # what is struck is not there
    labels, whole_labels = contents(run)[0], contents(place / "run")[0]
    assert (labels[labels.cycle == 3].source == "review").sum() == 2 and labels[labels.cycle == 2].equals(whole_labels[whole_labels.cycle == 2])
    models = lambda folder, stage: [(folder / f"fold{k}" / stage / "model.pt").read_bytes() for k in (0, 1)]
    assert models(run, "cycle2") == models(place / "run", "cycle2")
    assert models(run, "cycle3") != models(place / "run", "cycle3")


def test_motif_candidates_are_learnt_by_a_cycle(place, tmp_path, capsys):
    "From `rfcx motif candidates` to the labels of a cycle; a table of another corpus is refused before anything is trained."
    from rfcx_kit.cli import main

    table, run = tmp_path / "candidates.csv", tmp_path / "run"
    assert main(["motif", "candidates", str(place / "forest"), str(table), "--elsewhere", "--least", "0.3"]) == 0
    found = pd.read_csv(table, dtype={"recording_id": str})
    assert len(found)
    command = ["run", "--corpus", str(place / "forest"), "--recipe", str(place / "tiny.yaml"), "--cycles", "1", "--relabel.candidates"]
    assert main([*command, str(table), "--out", str(run)]) == 0
    learnt = pd.read_parquet(run / "labels/cycle1.parquet").query("source == 'motif'")
    assert len(learnt) == len(found) and np.allclose(learnt.weight, 0.3) and np.allclose(learnt.presence, found.presence, atol=1e-4)
    assert (contents(run)[0].query("source == 'motif'").cycle == 1).all() and (run / "report.html").exists()
    found.assign(species_id=99).to_csv(table, index=False)
    capsys.readouterr()
    assert main([*command, str(table), "--out", str(tmp_path / "other")]) == 1
    assert "it was made of another one" in capsys.readouterr().err and not (tmp_path / "other/fold0").exists()
