"BirdCLEF and any folder of sounds, end to end: the tiny recipes trained for real on synthetic sound, killed, continued, evaluated, predicted."
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
import yaml

from rfcx_kit.cli import main
from rfcx_kit.labels.birdclef import read_birdclef
from rfcx_kit.labels.targets import recording_targets
from rfcx_kit.stages.detections import row_submission, row_table

RATE = 8000
TONES = {"amecro": 500, "sonspa": 1300, "wooduc": 3000}


def rfcx(*args, check=True):
    "Call the command line, here: a process of its own would import torch again for every mistake."
    torch.set_num_threads(1)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        status = main(list(map(str, args)))
    done = SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def tone(path, hz, rng, seconds=3.0):
    t = np.arange(int(RATE * seconds)) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, 0.05 * rng.standard_normal(len(t)) + 0.3 * np.sin(2 * np.pi * hz * rng.uniform(0.95, 1.05) * t) * (t % 1.5 < 0.7), RATE)


@pytest.fixture(scope="module")
def birdclef(tmp_path_factory):
    "A folder in the layout of 2022: three species, seven clips each, authors, ratings, two scored species."
    folder, rng, rows = tmp_path_factory.mktemp("birdclef"), np.random.default_rng(0), []
    for name, hz in TONES.items():
        for i in range(7):
            tone(folder / f"train_audio/{name}/XC{name}{i}.ogg", hz, rng)
            rows.append(dict(primary_label=name, secondary_labels="['sonspa']" if i == 0 and name == "amecro" else "[]", type="['song']", latitude=1.0, longitude=2.0, scientific_name="x",
                             common_name="y", author=f"{name}{i // 2}", license="cc", rating=[5.0, 2.5, 0.0][i % 3], time="08:00", url="u", filename=f"{name}/XC{name}{i}.ogg"))
    pd.DataFrame(rows).to_csv(folder / "train_metadata.csv", index=False)
    (folder / "scored_birds.json").write_text('["amecro", "wooduc"]')
    tone(folder / "test_soundscapes/soundscape_1.ogg", 500, rng, 7.3)
    return folder


@pytest.fixture(scope="module")
def dogs(tmp_path_factory):
    "A trained run of sound_classification_tiny on a folder of classes, by the command line."
    place, rng = tmp_path_factory.mktemp("dogs"), np.random.default_rng(0)
    for name, hz in TONES.items():
        for i in range(6):
            tone(place / f"in/{name}/{name}{i}.wav", hz, rng)
    (place / "in/amecro/broken.wav").write_text("no sound")
    done = rfcx("make-dataset", place / "in", place / "train.csv", "--folds", 2)
    assert "18 files of 3 classes; 1 could not be read" in done.stdout
    assert pd.read_csv(place / "train.csv.problems.csv").reason[0].startswith("not a sound file")
    (place / "my.yaml").write_text(yaml.safe_dump(dict(extends="sound_classification_tiny", classes=list(TONES), dataset=str(place / "train.csv"), output=str(place / "run"))))
    (place / "said.txt").write_text(rfcx("cv", "--recipe", place / "my.yaml").stdout)
    return place


CLIPS = ["primary_label", "secondary_labels", "type", "latitude", "longitude", "scientific_name", "common_name", "author", "license", "rating", "url", "filename"]  # 2023, 2024


def layout(folder, year):
    "The tables and sounds of one year, in its columns; three clips of two species, the second without a place, the third without a rating."
    sound = lambda name, seconds=6.0: tone(folder / name, 500, np.random.default_rng(0), seconds)
    first, second = {"2023": ("abethr1", "yewgre1"), "2024": ("asbfly", "zitcis1"), "2025": ("1139490", "whtdov")}[year]
    names = [f"{first}/CSA36385.ogg" if year == "2025" else f"{first}/XC128013.ogg", f"{second}/XC1.ogg", f"{second}/iNat65519.ogg"]
    cells = dict(primary_label=[first, second, second], secondary_labels=["['']" if year == "2025" else "[]", f"['{first}', 'lotshr1']", "[]"], type="['song']", latitude=[4.3, None, 5.1],
                 longitude=[38.1, None, 38.2], scientific_name=["A b", "C d", "C d"], common_name=["One", "Two", "Two"], author=["Ann", "Bob", "Bob"], license="cc", rating=[4.0, 2.5, 0.0], url="u", filename=names)
    if year == "2025":
        columns = ["primary_label", "secondary_labels", "type", "filename", "collection", "rating", "url", "latitude", "longitude", "scientific_name", "common_name", "author", "license"]
        pd.DataFrame(cells | dict(collection=["CSA", "XC", "iNat"]))[columns].to_csv(folder / "train.csv", index=False)
        taxonomy = dict(primary_label=[first, "21038", second], inat_taxon_id=[first, "21038", "3"], scientific_name=["A b", "E f", "C d"], common_name=["One", "Frog", "Two"], class_name=["Insecta", "Amphibia", "Aves"])
        pd.DataFrame(taxonomy).to_csv(folder / "taxonomy.csv", index=False)
        (folder / "recording_location.txt").write_text("El Silencio")
        sound("train_soundscapes/H02_20230420_074000.ogg")
    else:
        pd.DataFrame(cells)[CLIPS].to_csv(folder / "train_metadata.csv", index=False)
        (folder / "eBird_Taxonomy_v2021.csv").write_text("TAXON_ORDER,CATEGORY,SPECIES_CODE,PRIMARY_COM_NAME,SCI_NAME,ORDER1,FAMILY,SPECIES_GROUP,REPORT_AS\n1,species,ostric2,Ostrich,S c,O,F,G,\n")
    if year == "2024":
        sound("unlabeled_soundscapes/460830.ogg")
    for name in names:
        sound(f"train_audio/{name}")
    sound("test_soundscapes/soundscape_29201.ogg")
    asked = dict.fromkeys([second, *(["21038"] if year == "2025" else []), first], 0.5)
    pd.DataFrame(dict(row_id=["soundscape_29201_5", "soundscape_29201_10"]) | asked).to_csv(folder / "sample_submission.csv", index=False)
    return first, second


@pytest.mark.parametrize("year", ["2023", "2024", "2025"])
def test_layouts(tmp_path, year):
    first, second = layout(tmp_path, year)
    with pytest.warns(UserWarning, match="lotshr1"):  # a secondary label that nobody asks for
        corpus = read_birdclef(tmp_path, secondary=0.5)
    r, names = corpus.recordings, list(corpus.species.name)
    assert names == [second, *(["21038"] if year == "2025" else []), first] and corpus.species.scored.all()  # as the submission has them, as text
    assert corpus.species.common_name[names.index(first)] == "One" and (year != "2025" or corpus.species.common_name[1] == "Frog")
    kinds = {"2023": {}, "2024": {"460830": "unlabelled"}, "2025": {"H02_20230420_074000": "unlabelled"}}[year]
    assert r.split.to_dict() == {**dict.fromkeys([Path(n).stem for n in pd.read_csv(next(tmp_path.glob("train*.csv"))).filename], "train"), **kinds, "soundscape_29201": "test"}
    assert (r.path != "").all() and r.seconds.round().eq(6).all() and r.group[["XC1", "iNat65519"]].tolist() == ["Bob", "Bob"]
    assert np.isnan(r.latitude["XC1"]) and (year != "2025" or r.group["H02_20230420_074000"] == "H02")
    value, weight = recording_targets(corpus)
    k, j = names.index(first), names.index(second)
    assert value.loc["XC1"].iloc[[j, k]].tolist() == [1, 1] and np.allclose(weight.loc["XC1"].iloc[[j, k]], [0.5, 0.25])
    assert np.isclose(weight.loc["iNat65519"].iloc[j], 0.1) and r.complete["XC1"] and not r.complete["soundscape_29201"]
    rows = row_table("soundscape_29201", "x.ogg", np.arange(2 * len(names)).reshape(2, -1) / 10, names)
    sample = pd.read_csv(tmp_path / "sample_submission.csv")
    made = row_submission(rows, sample)
    assert made.columns.tolist() == sample.columns.tolist() and np.allclose(made[first], [k / 10, (len(names) + k) / 10])


def test_sound_classification(dogs):
    scores = pd.read_csv(dogs / "run/scores.csv").set_index("fold")
    assert scores.clips.tolist() == [9, 9, 18] and scores.macro_auc["all"] > 0.75 and "18 clips of 3 classes" in (dogs / "said.txt").read_text()
    done = rfcx("evaluate", dogs / "run", "--out", dogs / "eval.csv")
    table = pd.read_csv(dogs / "eval.csv", index_col=0)
    assert table.clips.tolist() == [6, 6, 6] and "taken_for" in done.stdout
    assert np.isclose(table.f1.mean(), scores.macro_f1["all"])
    assert pd.read_csv(dogs / "eval-confusions.csv", index_col=0).to_numpy().sum() == 18
    found, oof = pd.read_csv(dogs / "run/thresholds.csv").set_index("name").threshold, pd.read_parquet(dogs / "run/oof.parquet")
    for name in TONES:  # no other threshold has a better F1
        yes = oof.index.str.startswith(name)
        f1 = {t: 2 * (yes & (oof[name] >= t)).sum() / (yes.sum() + (oof[name] >= t).sum()) for t in oof[name]}
        assert np.isclose(max(f1.values()), f1[min(f1, key=lambda t: abs(t - found[name]))])


@pytest.mark.parametrize("name", ["birdclef2021_2nd_tiny", "birdclef2022_selective_tiny"])
def test_birdclef_recipes(birdclef, tmp_path, name):
    rfcx("cv", "--recipe", name, "--dataset", birdclef, "--output", tmp_path / "run")
    scores = pd.read_csv(tmp_path / "run/scores.csv").set_index("fold")
    folds = pd.read_csv(tmp_path / "run/folds.csv", index_col=0)
    assert scores.clips["all"] == 21 and scores.macro_auc["all"] > 0.75, scores
    assert folds.fold.groupby(folds.index.str.slice(2, 8) + (folds.index.str[-1].astype(int) // 2).astype(str)).nunique().max() == 1  # authors stay together
    pd.DataFrame(dict(row_id=["soundscape_1_5", "soundscape_1_10"], amecro=0.0, sonspa=0.0, wooduc=0.0)).to_csv(tmp_path / "sample.csv", index=False)
    if name.startswith("birdclef2021"):
        done = rfcx("predict", tmp_path / "run", birdclef / "test_soundscapes/*.ogg", "--out", tmp_path / "rows.parquet")
        rows = pd.read_parquet(tmp_path / "rows.parquet")
        assert rows.row_id.tolist() == [f"soundscape_1_{k}" for k in range(1, 9)] and "about" in done.stdout  # tiny rows are one second
        assert (rows.amecro[:7] > rows[["sonspa", "wooduc"]].max(axis=1)[:7]).mean() > 0.6


def test_everything_in_bf16_without_validation(dogs, tmp_path):
    done = rfcx("cv", "--recipe", dogs / "my.yaml", "--output", tmp_path / "all", "--n_folds", 0, "--train.precision", "bf16-mixed", "--train.epochs", 1)
    assert "1 models" in done.stdout and not (tmp_path / "all/oof.parquet").exists()
    assert np.isfinite(pd.read_csv(tmp_path / "all/all/metrics.csv").loss).all()
    assert rfcx("evaluate", tmp_path / "all", check=False).stderr.count("no out-of-fold scores") == 1


def test_killed_goes_on(dogs, tmp_path):
    command = [sys.executable, "-c", "import sys; from rfcx_kit.cli import main; sys.exit(main())", "cv", "--recipe", str(dogs / "my.yaml"), "--output", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.time() + 1800
    while not (tmp_path / "run/fold1/last.ckpt").exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = (tmp_path / "run/fold0/model.pt").stat().st_mtime_ns
    rfcx(*command[3:])
    assert before == (tmp_path / "run/fold0/model.pt").stat().st_mtime_ns
    mine, whole = (pd.read_parquet(folder / "oof.parquet") for folder in (tmp_path / "run", dogs / "run"))
    np.testing.assert_allclose(mine, whole.loc[mine.index], atol=1e-5)


def test_predict_tables_and_broken_files(dogs, tmp_path):
    rng = np.random.default_rng(1)
    tone(tmp_path / "long.wav", 3000, rng, 30.4)
    (tmp_path / "empty.wav").touch()
    done = rfcx("predict", dogs / "run", tmp_path, "--out", tmp_path / "rows.csv", "--tables", '["raven", "audacity", "kaleidoscope"]', "--threshold", 0.5)
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert len(rows) == 31 and "1 broke" in done.stdout and not (tmp_path / "rows.csv.journal").exists()
    assert {p.name for p in (tmp_path / "rows.csv.detections").iterdir()} == {"kaleidoscope.csv", "long.raven.txt", "long.audacity.txt"}
    assert (rows.iloc[:, 4:].idxmax(axis=1) == "wooduc").mean() > 0.6


def test_mistakes_are_one_sentence(dogs, tmp_path):
    for args, said in (
        (["cv", "--recipe", "sound_classification"], "classes: the names of the classes"),
        (["cv", "--recipe", dogs / "my.yaml", "--classes", '["amecro", "dog"]', "--output", tmp_path / "x"], "dog is not in the dataset"),
        (["cv", "--recipe", dogs / "my.yaml", "--weak.smothing", "1", "--output", tmp_path / "x"], "smothing"),
        (["cv", "--recipe", dogs / "my.yaml", "--weak.short", "loop", "--output", tmp_path / "x"], "weak.short is 'loop'"),
        (["cv", "--recipe", dogs / "my.yaml", "--train.augment.mix", "0.5", "--output", tmp_path / "x"], "train.augment.mix: not for clips"),
        (["evaluate", tmp_path], "not a run of rfcx cv"),
        (["predict", dogs / "run", tmp_path / "*.ogg"], "no sound files there"),
        (["predict", dogs / "run", dogs / "in", "--tables", '["raven", "excel"]'], "excel is not one of"),
        (["make-dataset", tmp_path / "none", tmp_path / "o.csv"], "no such folder"),
    ):
        done = rfcx(*args, check=False)
        assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr, (args, done.stderr)


def test_memory_stays_flat_over_an_hour(tmp_path):
    "A file of an hour takes no more memory than one of four minutes, beyond the noise of measuring."
    code = """
import resource, sys, numpy as np, torch
from rfcx_kit.model.parts import ClipNet, ClipNetConfig
from rfcx_kit.sound.mel import LogMel, MelConfig
from rfcx_kit.stages.checkpoint import Trained
from rfcx_kit.stages.dataset import ClipConfig
from rfcx_kit.stages.detections import score_file
torch.set_num_threads(1)
mel = MelConfig(8000, 512, 400, 16, 50, 3900)
config = ClipNetConfig("test_resnet.r160_in1k", 2)
model = Trained(ClipNet(config).eval(), config, mel, ClipConfig(100, 0, "db80"), ["a", "b"], LogMel(mel))
peaks = []
for path in sys.argv[1:]:
    scores, problem = score_file([model], path)
    assert problem is None
    peaks.append((len(scores), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
print(peaks[0][0], peaks[1][0], peaks[1][1] - peaks[0][1])
"""
    minute = (0.01 * np.random.default_rng(0).standard_normal(60 * RATE)).astype(np.float32)
    for name, minutes in (("short", 4), ("hour", 60)):
        with sf.SoundFile(tmp_path / f"{name}.flac", "w", RATE, 1) as f:
            for _ in range(minutes):
                f.write(minute)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "short.flac"), str(tmp_path / "hour.flac")], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    short, hour, grown = done.stdout.split()
    assert (short, hour) == ("48", "720") and float(grown) < 60, done.stdout
