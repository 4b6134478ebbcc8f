"Augmentation, clips, sweeps and checks from end to end, on a forest of seconds: what a recipe says is what is trained, the same again after a kill."
import numpy as np
import pandas as pd
import pytest
import torch

from rfcx_kit.cli import main
from rfcx_kit.labels.corpus import read_corpus
from rfcx_kit.stages.checkpoint import load_model

TINY = """
extends: rfcx_2nd_stage_cpu
model: {trunk: test_resnet.r160_in1k}
clip: {window: 128, overlap: 16}
mel: {n_mels: 32}
folds: {n: 0}
stage1: {epochs: 2, workers: 0, precision: 32-true, sample: {refused: 4, anywhere: 0}}
stage2: {epochs: 0}
cycles: 0
precision: 32-true
"""
ROWS = """
exact: {stage1: {sample: {clips: exact}}}
centred: {stage1: {sample: {clips: centred, on_box: 0.5, refused_ratio: 1.0}}}
file: {stage1: {sample: {clips: file}}, clip: {window: 700}}
loud: {stage1: {augment: {wave: [{Shift: {p: 1.0}}, {AddGaussianSNR: {p: 1.0}}], image: [TimeWarp]}, mix_batch: cutmix}, predict: {windows: [128, 96], over: top2, tta: [shift]}}
crops: {stage1: {sample: {clips: exact}, loss: {name: masked_mean, unknown: ignore}}, model: {crop: 16}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A forest of 6 + 2 recordings of 10 s, a tiny recipe, and trials of it."
    place = tmp_path_factory.mktemp("experiments")
    (place / "tiny.yaml").write_text(TINY)
    (place / "rows.yaml").write_text(ROWS)
    assert main(["synth", str(place / "forest"), "--train", "6", "--test", "2", "--seconds", "10", "--tp-per-species", "3"]) == 0
    return place


def sweep(place, rows):
    return main(["sweep", "--corpus", str(place / "forest"), "--recipe", str(place / "tiny.yaml"), "--rows", str(rows), "--out", str(place / "sweep"), "--workers", "1"])


def test_sweep_trains_every_way_and_resumes(place, capsys):
    assert sweep(place, place / "rows.yaml") == 0
    table = pd.read_csv(place / "sweep/sweep.csv", index_col=0)
    assert list(table.index) == ["exact", "centred", "file", "loud", "crops"] and table.test_truth_lwlrap.between(0, 1).all() and "stage1.sample.clips" in table
    bands = load_model(place / "sweep/crops/all/stage1/model.pt").config.bands # of the boxes
    assert len(bands) == 24 and all(0 <= low < high <= 32 for low, high in bands) and min(high - low for low, high in bands) < 16
    models = {n: (place / f"sweep/{n}/all/stage1/model.pt").stat().st_mtime_ns for n in table.index}
    assert sweep(place, place / "rows.yaml") == 0
    assert models == {n: (place / f"sweep/{n}/all/stage1/model.pt").stat().st_mtime_ns for n in table.index}
    capsys.readouterr()
    assert main(["runs", str(place / "sweep")]) == 0
    assert "clip.window" in (said := capsys.readouterr().out) and "centred" in said


def test_waveform_training_is_the_same_again(place):
    from rfcx_kit.recipe import load_recipe
    from rfcx_kit.stages.runs import open_run, train_stage

    recipe = load_recipe(place / "sweep/recipes/loud.yaml")
    run = open_run(place / "again", place / "forest", recipe, place / "sweep/store", progress=False, say=lambda _: None)
    for module in (np.random, torch): (module.seed if module is np.random else module.manual_seed)(99) # whatever the global generators are at
    train_stage(run, "stage1")
    one, two = (torch.load(place / f"{folder}/all/stage1/model.pt", weights_only=True)["state"] for folder in ("sweep/loud", "again"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_predict_looks_as_it_is_told(place, capsys):
    from rfcx_kit.stages.predict import PredictConfig, find_models, predict

    run, files = place / "sweep/loud", [str(p) for p in sorted((place / "forest/test").glob("*.flac"))]
    def scores(name, *looks): # the values before the files, as people write them
        assert main(["predict", str(run), *looks, *files, "--out", str(place / f"{name}.csv"), "--precision", "32-true"]) == 0
        return pd.read_csv(place / f"{name}.csv", index_col=0)
    own, same = scores("own"), scores("same", "--predict.windows", "[128, 96]", "--predict.over=top2", "--predict.tta", '["shift"]')
    pd.testing.assert_frame_equal(own, same)
    told = scores("told", "--predict.windows", "[64]", "--predict.tta", "[]", "--predict.smooth", "5", "--predict.over", "noisy_or")
    how = PredictConfig(windows=[64], smooth=5, over="noisy_or")
    recordings = read_corpus(place / "forest").recordings.query("split == 'test'")
    wanted = predict(find_models(run), recordings, place / "wanted", pool="both", precision="32-true", how=how, progress=False)
    np.testing.assert_allclose(told, wanted.loc[told.index], atol=1e-5)
    assert not np.allclose(told, own, atol=1e-3)
    capsys.readouterr()
    for wrong, said in [(("--predict.looks", "2"), "there are: windows"), (("--predict.windws=[64]",), "did you mean predict.windows?"), (("--predict.tta", '["shfit"]'), "there are shift"), (("--predict.windows", "wide"), "predict.windows")]:
        assert main(["predict", str(run), *files, *wrong, "--out", str(place / "no.csv")]) == 1
        assert said in capsys.readouterr().err and not (place / "no.csv").exists()


def test_checks_speak(place, capsys):
    assert main(["check", "--recipe", "rfcx_2nd_stage_cpu", "--corpus", str(place / "forest")]) == 0
    with pytest.raises(SystemExit): main(["check", "--recipe", str(place / "tiny.yaml"), "--stage1.schedule", "step", "--stage1.step_size", "9", "--mel.f_max", "9000", "--corpus", str(place / "forest")])
    said = capsys.readouterr().out
    assert "learning rate stays" in said and "reach out of the mel band" in said and "nothing validates" in said


@pytest.mark.parametrize("wrong, said", [("{stage1: {augment: {wave: [PitchShfit]}}}", "did you mean PitchShift"), ("{stage1: {augment: {image: [{TimeWarp: {wide: 3}}]}}}", "no argument 'wide'"),
                                         ("{stage1: {sample: {clips: box}}}", "there are: boxes"), ("{predict: {over: top}}", "no way to pool"), ("{stage1: {mix_batch: cut}}", "no way to mix")])
def test_bad_recipes_say_what_there_is(place, capsys, wrong, said):
    (place / "wrong.yaml").write_text(f"a: {wrong}\n")
    assert sweep(place, place / "wrong.yaml") == 1
    assert said in capsys.readouterr().err


def test_waveform_needs_sound(place, capsys):
    assert main(["prepare", str(place / "forest"), str(place / "mels"), "--to", "mel"]) == 0
    (place / "loud.yaml").write_text(TINY.replace("n_mels: 32", "n_mels: 128").replace("sample:", "augment: {wave: [Gain]}, sample:"))
    assert main(["run", "--corpus", str(place / "mels/manifest.csv"), "--recipe", str(place / "loud.yaml"), "--out", str(place / "no"), "--store", str(place / "mels")]) == 1
    assert "rfcx prepare --to flac" in capsys.readouterr().err


def test_mlflow_gets_every_epoch(place):
    mlflow = pytest.importorskip("mlflow")
    where = (place / "mlruns").as_uri()
    assert main(["train", "--corpus", str(place / "forest"), "--recipe", str(place / "tiny.yaml"), "--out", str(place / "logged"), "--stage1.mlflow", where]) == 0
    client = mlflow.MlflowClient(where)
    (run,) = client.search_runs([client.get_experiment_by_name("rfcx_kit").experiment_id])
    written = pd.read_csv(place / "logged/all/stage1/metrics.csv")
    assert run.info.run_name == "logged/all/stage1" and run.info.status == "FINISHED"
    np.testing.assert_allclose([m.value for m in client.get_metric_history(run.info.run_id, "loss")], written.loss, rtol=1e-4)


def test_cut_corpus_trains(place, capsys):
    assert main(["prepare", str(place / "forest"), str(place / "cut"), "--cut", "both", "--seconds", "4"]) == 0
    corpus = read_corpus(place / "cut/manifest.csv")
    assert corpus.recordings.seconds.max() <= 4 and set(corpus.recordings.group) <= set(read_corpus(place / "forest").recordings.index)
    assert main(["train", "--corpus", str(place / "cut/manifest.csv"), "--recipe", str(place / "tiny.yaml"), "--out", str(place / "cutrun")]) == 0


def test_public_share(place, capsys):
    sample = pd.read_csv(place / "forest/sample_submission.csv", index_col=0)
    (sample * 0 + np.random.default_rng(0).random(sample.shape)).to_csv(place / "random.csv")
    assert main(["score", str(place / "random.csv"), "--truth", str(place / "forest/truth_test.csv"), "--public-share", "0.21", "--public-size", "100"]) == 0
    assert "nine draws in ten" in capsys.readouterr().out
