"The feature store under stress: bad files, other numbers of workers, a kill in the middle, shared folders."
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from rfcx_kit.labels.corpus import read_rfcx
from rfcx_kit.problems import Problems, SoundProblem
from rfcx_kit.sound.mel import MelConfig
from rfcx_kit.sound.store import FeatureStore, ReadyMade, prepare
from rfcx_kit.sound.synth import synthesize

SMALL = MelConfig(n_mels=32)


def listing(recordings):
    "A corpus' recordings, as far as a store looks at them."
    return pd.DataFrame({"path": pd.Series(recordings)}).rename_axis("recording_id")


def noise(seconds=1.0, rate=16_000, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))).astype("float32")


def contents(folder):
    "What counts in a folder: the bytes of every file that is not hidden, but for the journals' order."
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): sorted(p.read_bytes().splitlines()) if p.suffix == ".jsonl" else p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    "Good files and one of every bad kind."
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(6):
        sf.write(folder / f"good{i}.wav", noise(seed=i), 16_000)
    sf.write(folder / "whole.flac", noise(20), 16_000)
    data = (folder / "whole.flac").read_bytes()
    (folder / "cut.flac").write_bytes(data[: len(data) // 2])
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("a letter, no sound at all")
    sf.write(folder / "header.wav", np.zeros(0, "float32"), 16_000)
    sf.write(folder / "silent.wav", np.zeros(16_000, "float32"), 16_000)
    sf.write(folder / "short.wav", noise(0.05), 16_000)
    wave = noise()
    wave[8000] = np.nan
    sf.write(folder / "nan.wav", wave, 16_000, subtype="FLOAT")
    paths = {p.stem: str(p) for p in folder.iterdir()}
    return listing({**paths, "gone": str(folder / "gone.wav"), "elsewhere": ""}).sort_index()


def test_the_same_problems_for_any_workers_and_again(sounds, tmp_path):
    found, stores = [], []
    for name, workers in (("a", 0), ("b", 2), ("b", 2), ("c", 3)):
        store = FeatureStore(tmp_path / name, SMALL)
        built = store.build(sounds, workers, problems := Problems())
        assert (built.failed, built.no_sound, built.made + built.there) == (8, 1, 7)
        found.append(problems.rows)
        stores.append(contents(store.folder))
    assert all(f == found[0] for f in found) and all(s == stores[0] for s in stores)
    reasons = {os.path.basename(p.path).split(".")[0]: p.reason for p in found[0]}
    for name, reason in dict(cut="truncated", empty="empty file", text="not a sound file", header="no samples", silent="silent",
                             short="too short", nan="NaN", gone="missing").items():
        assert reasons[name].startswith(reason), (name, reasons[name])


@pytest.mark.parametrize("workers", [0, 2])
def test_stop_raises_the_first_problem(sounds, tmp_path, workers):
    with pytest.raises(SoundProblem) as e:
        FeatureStore(tmp_path, SMALL).build(sounds, workers, Problems("stop"))
    assert e.value.problem.path.endswith("cut.flac")


BUILD = """
import sys
from rfcx_kit.labels.corpus import read_rfcx
from rfcx_kit.sound.store import FeatureStore, prepare
corpus = read_rfcx(sys.argv[1])
if sys.argv[3] == "store": FeatureStore(sys.argv[2]).build(corpus.recordings)
else: prepare(corpus, sys.argv[2], "flac")
"""


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("forest") / "c", train=24, test=6, seconds=20)


@pytest.mark.parametrize("what", ["store", "prepare"])
def test_kill_in_the_middle_loses_nothing(forest, tmp_path, what):
    command = [sys.executable, "-c", BUILD, str(forest), str(tmp_path / "killed"), what]
    child = subprocess.Popen(command)
    pattern = "mel-*/*.npy" if what == "store" else "t*/*.flac"
    done = lambda: [p for p in (tmp_path / "killed").glob(pattern) if not p.name.startswith(".")]
    start = time.time()
    while len(done()) < 8 and time.time() - start < 1200:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 8 <= len(done()) < 30
    before = {p: p.stat().st_mtime_ns for p in done()}
    subprocess.run(command, check=True)
    kept = sum(p.stat().st_mtime_ns == t for p, t in before.items())
    assert kept >= len(before) - 3 # at most the ones that were not noted yet are made again
    command[-2] = str(tmp_path / "whole")
    subprocess.run(command, check=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not [p for p in (tmp_path / "killed").rglob(".*") if p.name != ".lock"]


def test_store_and_ready_made_are_one_interface(forest, tmp_path):
    corpus = read_rfcx(forest)
    store = FeatureStore(tmp_path / "own")
    store.build(corpus.recordings)
    (tmp_path / "shared").mkdir()
    for i, name in enumerate(store.ids):
        if i % 3 == 0: np.save(tmp_path / f"shared/{name}.npy", store.mel(name))
        if i % 3 == 1: np.savez(tmp_path / f"shared/{name}.npz", x=store.mel(name).astype("float32"))
        if i % 3 == 2: np.savez_compressed(tmp_path / f"shared/{name}.npz", **{"mel of it": store.mel(name).T})
    ready = ReadyMade(tmp_path / "shared")
    assert ready.ids == store.ids and len(store.ids) == 30
    for name in store.ids:
        assert name in ready and name in store and ready.n_frames(name) == store.n_frames(name) == 1251
        assert np.array_equal(ready.mel(name), store.mel(name))
        for a, b in ((0, 512), (463, 975), (1000, 1251)):
            assert np.array_equal(ready.window(name, a, b), store.window(name, a, b))
        assert ready.window(name, 1200, 1300).shape == store.window(name, 1200, 1300).shape == (128, 100)


def test_strange_ready_made_mels_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        ReadyMade(tmp_path)
    np.savez(tmp_path / "two.npz", a=np.zeros((128, 9)), b=np.zeros((128, 9)))
    np.save(tmp_path / "image.npy", np.zeros((128, 9), "uint8"))
    np.save(tmp_path / "bands.npy", np.zeros((64, 9), "float32"))
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="key="):
        ReadyMade(tmp_path).mel("two")
    assert ReadyMade(tmp_path, key="b").mel("two").shape == (128, 9)
    for name in ("image", "bands", "pickle"):
        with pytest.raises(ValueError):
            ReadyMade(tmp_path).mel(name)


def test_ids_cannot_leave_the_folder(sounds, tmp_path):
    good = sounds.path["good0"]
    store = FeatureStore(tmp_path / "in", SMALL)
    names = ["../out", "a/b", ".hidden", "späte Lerche 1%2F"]
    store.build(listing(dict.fromkeys(names, good)))
    assert store.ids == sorted(names) and all(n in store for n in names)
    assert all(p.parent == store.folder for p in tmp_path.rglob("*.npy"))


def test_a_store_that_cannot_be_written_is_believed(sounds, tmp_path, monkeypatch):
    good = sounds[sounds.index.str.startswith("good")]
    store = FeatureStore(tmp_path, SMALL)
    store.build(good)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert store.build(good).there == 6
    with pytest.raises(PermissionError, match="lacks 1 recordings"):
        store.build(pd.concat([good, sounds.loc[["whole"]]]))


def test_prepared_mels_and_sound_are_a_corpus(forest, tmp_path):
    corpus = read_rfcx(forest)
    for to, rate in (("wav", 30_000), ("mel", 32_000)):
        prepare(corpus, tmp_path / to, to, sample_rate=rate)
        again = read_rfcx(tmp_path / to)
        assert again.annotations.equals(corpus.annotations) and list(again.recordings.index) == list(corpus.recordings.index)
        manifest = pd.read_csv(tmp_path / to / "manifest.csv")
        assert all((tmp_path / to / p).exists() for p in manifest.path) and set(manifest.recording_id) == set(corpus.recordings.index)
        assert manifest.species_id.notna().sum() == len(corpus.annotations)
    assert set(read_rfcx(tmp_path / "wav").recordings.sample_rate) == {30_000}
    with pytest.raises(ValueError, match="higher sample_rate"):
        prepare(corpus, tmp_path / "low", sample_rate=16_000)


def test_real_bad_files(real, tmp_path):
    files = sorted((real / "bad").iterdir())
    recordings = listing({p.stem: str(p) for p in files})
    found = []
    for workers in (0, 2):
        FeatureStore(tmp_path / str(workers)).build(recordings, workers, problems := Problems())
        found.append(problems.rows)
    assert found[0] == found[1] and len(found[0]) == 8
