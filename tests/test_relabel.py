"Re-labelling at the competition's size, and the commands that need no torch."
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest


@pytest.mark.parametrize("policy", ["votes", "soft", "sampled"])
def test_a_cycle_of_the_competition_fits_in_memory(policy):
    "4,727 recordings x 5 models x 24 species x 8 windows, below 2 GB."
    code = (
        "import resource, sys, numpy as np, pandas as pd; from rfcx_kit.stages.relabel import RelabelConfig, relabel;"
        "scores = (np.random.default_rng(0).random((5, 24, 8)) ** 4).astype(np.float16);"
        "bands = pd.DataFrame(dict(f_min=np.full(24, 500.0), f_max=np.full(24, 2000.0)));"
        "table = relabel(((f'{k:09x}', np.roll(scores, k, -1), 64, 60.0) for k in range(4727)), RelabelConfig(policy=sys.argv[1], votes=2), bands, 1);"
        "print(table.recording_id.nunique(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, policy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recordings, kib = map(int, done.stdout.split())
    assert recordings > 0 and kib < 2_000_000


def test_scoring_and_labels_load_no_torch():
    code = "import sys, rfcx_kit.cli, rfcx_kit.labels_cli, rfcx_kit.labels.audit, rfcx_kit.stages.score, rfcx_kit.stages.calibrate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_score_of_5000_recordings(tmp_path):
    "Three readings with intervals, without torch; 1.6 s of one core where it was measured, reading the library included."
    rng, ids = np.random.default_rng(0), [f"{k:09x}" for k in range(5000)]
    pd.DataFrame(rng.random((5000, 24)), pd.Index(ids, name="recording_id"), [f"s{k}" for k in range(24)]).to_csv(tmp_path / "scores.csv")
    boxes = pd.DataFrame(dict(recording_id=ids, species_id=rng.integers(0, 24, 5000), songtype_id=1, t_min=1, f_min=500, t_max=2, f_max=1000))
    boxes.to_csv(tmp_path / "truth.csv", index=False)
    code = (f"import sys; from rfcx_kit.cli import main; status = main(['score', r'{tmp_path}/scores.csv', '--truth', r'{tmp_path}/truth.csv', '--prior', 'rfcx']);"
            "sys.exit(status or 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prior_lwlrap" in done.stdout and " to " in done.stdout


def test_a_clip_draws_one_of_the_judges_that_are_kept_apart():
    from rfcx_kit.labels.corpus import Corpus, annotation_table, recording_table, species_table
    from rfcx_kit.stages.dataset import ClipConfig, Clips

    recordings = recording_table(dict(recording_id=["r"], seconds=10.0)).assign(n_frames=100)
    said = annotation_table(dict(recording_id="r", species_id=[0, 1, 2], t_min=0.0, t_max=10.0, source=["expert", "relabel:1/0", "relabel:1/1"]))
    clips, rng = Clips(Corpus(recordings, said, species_table("abc")), None, ClipConfig(window=20, overlap=0)), np.random.default_rng(0)
    drawn = {tuple(clips.targets("r", 0, opinion=clips.opinion("r", rng))[1][:, 0]) for _ in range(20)}
    assert drawn == {(1, 1, 0), (1, 0, 1)}  # the expert always, and one judge at a time


def test_ensembles_and_events_at_the_command_line(tmp_path, capsys):
    "Two tables, each knowing one species, alone and together; and spans against calls. All by hand."
    from rfcx_kit.cli import main

    rng, n = np.random.default_rng(0), 200
    species = rng.integers(0, 2, n)
    ids = [f"r{k:03d}" for k in range(n)]
    boxes = pd.DataFrame(dict(recording_id=ids, species_id=species, songtype_id=1, t_min=1.0, f_min=500.0, t_max=2.0, f_max=900.0))
    manifest = boxes.drop(columns="songtype_id").rename(columns=dict(species_id="species")).assign(path=[f"{i}.wav" for i in ids], presence=rng.integers(0, 2, n))
    manifest.to_csv(tmp_path / "corpus.csv", index=False)
    from rfcx_kit.labels.corpus import read_corpus

    known = read_corpus(tmp_path / "corpus.csv").annotations
    recordings = pd.Index(sorted(set(known.recording_id)), name="recording_id")
    for k, name in enumerate("ab"):
        score = np.where(known.species_id == k, 0.1 + 0.8 * known.presence, rng.random(len(known)))
        pd.DataFrame(dict(score=score), known.index).to_parquet(tmp_path / f"{name}.boxes.parquet")
        table = pd.DataFrame(rng.random((len(recordings), 2)), recordings, ["s0", "s1"])
        table.to_csv(tmp_path / f"{name}.csv")
    paths = [str(tmp_path / f"{name}.csv") for name in "ab"]
    given = ["--corpus", str(tmp_path / "corpus.csv"), "--boxes", str([str(tmp_path / f"{name}.boxes.parquet") for name in "ab"]).replace("'", '"')]
    assert main(["score", *paths, *given, "--ensemble", "fitted", "--out", str(tmp_path / "both.csv")]) == 0
    auc = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line.startswith("known_auc")]
    assert len(auc) == 3 and auc[2] > 0.99 > max(auc[:2])
    a, b, both = (pd.read_csv(tmp_path / f"{name}.csv", index_col=0) for name in ("a", "b", "both"))
    assert ((both.s0 - a.s0).abs() < (both.s0 - b.s0).abs()).all() and ((both.s1 - b.s1).abs() < (both.s1 - a.s1).abs()).all()
    assert main(["score", *paths, *given[:2], "--ensemble", "mean", "--out", str(tmp_path / "both.csv")]) == 0
    np.testing.assert_allclose(pd.read_csv(tmp_path / "both.csv", index_col=0), (a + b) / 2)
    assert main(["score", *paths, *given[:2], "--ensemble", "fitted"]) == 1 and "--boxes" in capsys.readouterr().err
    (tmp_path / "prior.csv").write_text("species_id,share\n0,0.1\n1,0.3\n")
    matched = ["--prior", str(tmp_path / "prior.csv"), "--match", "odds", "--out", str(tmp_path / "matched.csv")]
    assert main(["score", paths[0], *given[:2], *matched]) == 0
    matched_a = pd.read_csv(tmp_path / "matched.csv", index_col=0)
    np.testing.assert_allclose(matched_a.mean(), [0.1, 0.3], atol=1e-4)
    odds = matched_a / (1 - matched_a) / (a / (1 - a))
    np.testing.assert_allclose(odds, odds.iloc[[0] * len(odds)], rtol=1e-3)  # one factor a species
    capsys.readouterr()
    assert main(["score", paths[0], *given[:2], *matched[2:]]) == 1 and "--prior" in capsys.readouterr().err
    assert main(["score", *paths, *given[:2], *matched]) == 1 and "--ensemble" in capsys.readouterr().err

    boxes.to_csv(tmp_path / "truth.csv", index=False)
    boxes.iloc[:50].assign(t_min=[1.5] * 25 + [5.0] * 25, t_max=6.0).to_csv(tmp_path / "spans.csv", index=False)
    assert main(["score", "--events", str(tmp_path / "spans.csv"), "--truth", str(tmp_path / "truth.csv")]) == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert said == dict(spans="50", calls="200", precision="0.5000", recall="0.1250", f1="0.2000")
    assert main(["score", "--events", str(tmp_path / "spans.csv"), *given[:2]]) == 1 and "needs --truth" in capsys.readouterr().err
