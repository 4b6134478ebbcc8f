"Re-labelling at the competition's size, and the commands that need no torch."
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from rfcx_kit.stages.relabel import RelabelConfig, relabel


@pytest.mark.parametrize("policy", ["votes", "soft", "sampled"])
def test_a_cycle_of_the_competition_is_labelled_in_seconds(policy):
    "4,727 recordings x 5 models x 24 species x 8 windows: under 10 s of one core, far below 2 GB."
    scores = (np.random.default_rng(0).random((5, 24, 8)) ** 4).astype(np.float16)
    bands = pd.DataFrame(dict(f_min=np.full(24, 500.0), f_max=np.full(24, 2000.0)))
    start = time.process_time()
    table = relabel(((f"{k:09x}", np.roll(scores, k, -1), 64, 60.0) for k in range(4727)), RelabelConfig(policy=policy, votes=2), bands, 1)
    assert time.process_time() - start < 10 and table.recording_id.nunique() > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000  # KiB


def test_scoring_and_labels_load_no_torch():
    code = "import sys, rfcx_kit.cli, rfcx_kit.labels_cli, rfcx_kit.labels.audit, rfcx_kit.stages.score, rfcx_kit.stages.calibrate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_score_of_5000_recordings(tmp_path):
    "Three readings with intervals, without torch, in less than 2 s of one core (reading the library included)."
    rng, ids = np.random.default_rng(0), [f"{k:09x}" for k in range(5000)]
    pd.DataFrame(rng.random((5000, 24)), pd.Index(ids, name="recording_id"), [f"s{k}" for k in range(24)]).to_csv(tmp_path / "scores.csv")
    boxes = pd.DataFrame(dict(recording_id=ids, species_id=rng.integers(0, 24, 5000), songtype_id=1, t_min=1, f_min=500, t_max=2, f_max=1000))
    boxes.to_csv(tmp_path / "truth.csv", index=False)
    code = (f"import sys, time; from rfcx_kit.cli import main; status = main(['score', r'{tmp_path}/scores.csv', '--truth', r'{tmp_path}/truth.csv', '--prior', 'rfcx']);"
            "print(time.process_time()); sys.exit(status or 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prior_lwlrap" in done.stdout and " to " in done.stdout
    assert float(done.stdout.split()[-1]) < 4  # 1.6 s where it was measured


def test_a_clip_draws_one_of_the_judges_that_are_kept_apart():
    from rfcx_kit.labels.corpus import Corpus, annotation_table, recording_table, species_table
    from rfcx_kit.stages.dataset import ClipConfig, Clips

    recordings = recording_table(dict(recording_id=["r"], seconds=10.0)).assign(n_frames=100)
    said = annotation_table(dict(recording_id="r", species_id=[0, 1, 2], t_min=0.0, t_max=10.0, source=["expert", "relabel:1/0", "relabel:1/1"]))
    clips, rng = Clips(Corpus(recordings, said, species_table("abc")), None, ClipConfig(window=20, overlap=0)), np.random.default_rng(0)
    drawn = {tuple(clips.targets("r", 0, known=clips.known("r", rng))[1][:, 0]) for _ in range(20)}
    assert drawn == {(1, 1, 0), (1, 0, 1)}  # the expert always, and one judge at a time
