"The motif system: the published profile, planted calls, bad sound, and the command line from recordings to a submission."
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from rfcx_kit.cli import main
from rfcx_kit.labels.corpus import read_corpus
from rfcx_kit.motif.mine import ProfileStore, consolidate, extract_clips
from rfcx_kit.motif.profile import MotifConfig, matrix_profile, motifs
from rfcx_kit.motif.search import candidates
from rfcx_kit.problems import Problems
from rfcx_kit.sound.audio import read_audio, write_audio
from rfcx_kit.sound.synth import synthesize
from rfcx_kit.stages.relabel import read_candidates

RATE = 32_000
MEL = MotifConfig("mel", mp_window=10, metric="shared")
FLAGS = ["--feature", "mel", "--mp-window", "10", "--metric", "shared"]


def test_octave_reference(real):
    table = lambda name: np.loadtxt(real / f"simple/{name}.csv", delimiter=",")
    whole, part = table("full.cens"), table("motif.cens.0")
    made = matrix_profile(whole, 50)
    assert np.abs(made.distance - table("full.cens.mp")).max() < 1e-9
    assert np.array_equal(made.index + 1, table("full.cens.pi"))  # Octave counts from 1
    joined = matrix_profile(whole, 10, part, workers=2)
    assert np.abs(joined.distance - table("motif.cens.0.mp")).max() < 1e-9


def test_sums_begin_anew():
    "A profile longer than a tile of rows is as exact as a short one."
    x = np.cumsum(np.random.default_rng(0).normal(size=(2, 6000)), 1)
    made = matrix_profile(x, 40, workers=2)
    for i in (0, 4095, 4096, 5960):
        windows = np.lib.stride_tricks.sliding_window_view(x, 40, 1)
        d = ((windows - windows[:, i : i + 1]) ** 2).sum((0, 2))
        d[max(0, i - 20) : i + 21] = np.inf
        assert abs(d.min() - made.distance[i]) < 1e-9 * max(1, d[np.isfinite(d)].max()) and d.argmin() == made.index[i]


def test_stumpy_by_choice():
    x = np.random.default_rng(1).normal(size=(3, 150))
    x[:, 60:70] = np.nan
    made = matrix_profile(x, 12, metric="znorm")
    windows = np.lib.stride_tricks.sliding_window_view(x, 12, 1)
    z = (windows - windows.mean(-1, keepdims=True)) / windows.std(-1, keepdims=True)
    for i in (0, 30, 100, 138):
        d = np.sqrt(((z - z[:, i : i + 1]) ** 2).sum(-1)).mean(0) ** 2
        d[max(0, i - 3) : i + 4] = np.inf  # stumpy's own exclusion: a quarter of the window
        assert abs(np.nanmin(d) - made.distance[i]) < 1e-6
    assert not np.isfinite(made.distance[49:70]).any()
    with pytest.raises(ValueError, match="znorm joins a recording with itself only"):
        matrix_profile(x, 12, x, metric="znorm")


def test_planted_pair(tmp_path):
    "A call that is laid in twice is found within a frame, and the clips that are cut out there are that call."
    rng = np.random.default_rng(4)
    wave = 0.02 * rng.standard_normal(30 * RATE).astype("float32")
    t = np.arange(RATE) / RATE
    call = (0.3 * np.sin(2 * np.pi * (2000 * t + 1500 * t**2)) * np.hanning(RATE)).astype("float32")
    for at in (6.0, 21.0):
        wave[int(at * RATE) :][:RATE] += call
    wave[10 * RATE : 13 * RATE] = 0
    (tmp_path / "sound").mkdir()
    write_audio(tmp_path / "sound/planted.wav", wave, RATE)
    write_audio(tmp_path / "sound/short.wav", wave[: RATE // 2], RATE)
    pd.DataFrame({"path": ["sound/planted.wav", "sound/short.wav"]}).to_csv(tmp_path / "manifest.csv", index=False)
    corpus = read_corpus(tmp_path)
    store = ProfileStore(tmp_path / "out", MEL)
    store.build(corpus.recordings, workers=0)
    table = consolidate(store, corpus)
    assert set(table.recording_id) == {"planted"}  # half a second holds no window
    best = table[(table.kind == "motif") & (table["rank"] == 0)]
    ends = sorted(best.iloc[0][["t_min", "other_t_min"]])
    assert abs(ends[0] - 6) <= 1 / MEL.rate + 1e-9 and abs(ends[1] - 21) <= 1 / MEL.rate + 1e-9
    for column in ("t_min", "other_t_min"):
        rows = best.assign(t_min=best[column], t_max=best[column] + 1)
        clip = read_audio(tmp_path / column / extract_clips(rows, corpus.recordings, tmp_path / column).path[0])
        lags = range(-3200, 3201, 8)
        match = max(np.corrcoef(np.roll(clip, lag)[4000:-4000], call[4000:-4000])[0, 1] for lag in lags)
        assert match > 0.95
    profile = store.read("planted")
    assert not np.isfinite(profile["distance"][100:129]).any() and len(profile["distance"]) == 301 - 9


def test_bad_sound_is_the_same_report_for_any_workers(real, tmp_path):
    files = sorted((real / "bad").iterdir())
    pd.DataFrame({"path": [str(f) for f in files], "recording_id": [f"r{n}" for n in range(len(files))]}).to_csv(tmp_path / "m.csv", index=False)
    recordings, reports = read_corpus(tmp_path / "m.csv").recordings, []
    for workers in (0, 2):
        problems = Problems()
        ProfileStore(tmp_path / str(workers), MEL).build(recordings, workers, problems)
        reports.append(problems.rows)
    assert reports[0] == reports[1] and len(reports[0]) >= 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A forest, its profiles and its table of motifs."
    place = tmp_path_factory.mktemp("motif")
    synthesize(place / "forest", train=14, test=3, seconds=10, tp_per_species=6)
    assert main(["motif", "extract", str(place / "forest"), str(place / "out"), *FLAGS]) == 0
    assert main(["motif", "consolidate", str(place / "forest"), str(place / "out")]) == 0
    return place


def test_kill_in_the_middle_loses_nothing(place, tmp_path):
    "Killed while it extracts, then the same command again: the same table as without the kill."
    forest, killed = str(place / "forest"), tmp_path / "killed"
    command = [sys.executable, "-c", "import sys; from rfcx_kit.cli import main; sys.exit(main())", "motif", "extract", forest, str(killed), "--workers", "1"]
    done = lambda: [p for p in killed.glob("profile-*/*.npz") if not p.name.startswith(".")]
    child, start = subprocess.Popen(command), time.time()
    while len(done()) < 3 and time.time() - start < 1200:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 3 <= len(done()) < 17
    before = {p: p.stat().st_mtime_ns for p in done()}
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert sum(p.stat().st_mtime_ns == t for p, t in before.items()) >= len(before) - 1 and " 0 there before" not in again
    assert main(["motif", "extract", forest, str(tmp_path / "whole")]) == 0
    for out in ("killed", "whole"):
        assert main(["motif", "consolidate", forest, str(tmp_path / out)]) == 0
    assert (killed / "motifs.parquet").read_bytes() == (tmp_path / "whole/motifs.parquet").read_bytes()
    assert not [p for p in killed.rglob(".*") if p.name != ".lock"]


def test_command_line(place, capsys):
    def rfcx(*args):
        assert main(["motif", *map(str, args)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    forest, table = place / "forest", place / "out/motifs.parquet"
    assert "0 made, 17 there before" in rfcx("extract", forest, place / "out", *FLAGS)
    assert "clips, clips.parquet" in rfcx("extract-primary", forest, table, place / "primary")
    assert rfcx("extract-top", forest, table, place / "top", "--top", 2) and len(read_corpus(place / "top").recordings) >= 34
    assert "8 clips" in rfcx("sample", forest, table, place / "refs", "--k", 4)
    assert "17 clips" in rfcx("track", forest, table, place / "track.wav", "--index", "discord_0")
    assert "200 triplets" in rfcx("generate-triplets", forest, table, place / "t.parquet", "--samples", "2e2", "--seconds", 0.5)
    assert "take 0.02 GB" in rfcx("extract-triplets", forest, place / "t.parquet", place / "shards")
    small = ["--trunk", "tilenet", "--dim", 8, "--batch-size", 2, "--batches", 2, "--rounds", 1, "--precision", "32-true"]
    rfcx("embed", "fit", forest, place / "shards", place / "embed", *small)
    model, points = place / "embed/model.pt", place / "points.parquet"
    assert "tilenet" in rfcx("embed", "summary", model)
    rfcx("embed", "transform", forest, model, points, "--window", 2)
    assert len(pd.read_parquet(points)) == 17 * 5
    rfcx("embed", "map", forest, points, place / "map.html", "--most", 5)
    assert (place / "map.html").read_text().count("<circle") == 5
    calls = pd.read_csv(forest / "truth_train.csv")
    calls[calls.snr_db > 8].to_csv(place / "clear.csv", index=False)  # a forest is never silent: the clear calls
    gate = ["--truth", place / "clear.csv"]
    assert rfcx("nocall", "cv", points, forest, *gate, "--folds", 2).startswith("AUC ")
    rfcx("nocall", "fit", points, forest, place / "gate.txt", *gate)
    assert "85 windows" in rfcx("nocall", "predict", points, place / "gate.txt", place / "calls.parquet")
    pd.read_csv(forest / "sample_submission.csv").to_csv(place / "asked.csv", index=False)
    assert "3 rows" in rfcx("nocall", "gate", place / "asked.csv", place / "calls.parquet", place / "gated.csv")
    assert "clips of" in rfcx("classify", "prepare-dataset", forest, table, place / "clips", "--num-per-class", 3, "--seconds", 2)
    for flags in ([], ["--refs", place / "refs"]):
        rfcx("classify", "train", points, forest, place / "species", *flags)
        rfcx("classify", "predict", points, forest, place / "species", place / "submission.csv", "--calls", place / "calls.parquet")
        made = pd.read_csv(place / "submission.csv")
        assert len(made) == 85 and made.row_id[0].endswith("_2") and made.iloc[:, 1:].to_numpy().max() <= 1
    box = pd.read_csv(forest / "train_tp.csv").iloc[0]
    call = [forest / f"train/{box.recording_id}.flac", box.t_min, box.t_max]
    rfcx("search", forest, *call, "--out", place / "found.csv", "--f-min", 1000)
    found = pd.read_csv(place / "found.csv")
    assert found.recording_id[0] == box.recording_id and (found.f_min == 1000).all() and (found.f_max > 0).all()  # the call itself
    for flags in ([], ["--points", points]):
        assert "places in" in rfcx("search", forest, *call, "--out", place / "near.csv", "--model", model, *flags)
    assert pd.read_csv(place / "near.csv").recording_id[0] == box.recording_id
    assert "places in" in rfcx("search", forest, *call, "--out", place / "mine.csv", "--species", box.species_id)
    assert "candidates in" in rfcx("candidates", forest, place / "new.csv", "--least", 0.4)
    for name in ("mine.csv", "new.csv"):
        rows = pd.read_csv(place / name)
        assert set(rows.source) <= {"motif"} and len(read_candidates(place / name, read_corpus(forest))) == len(rows)


def test_interrupted_training_goes_on(place):
    from rfcx_kit.motif import embed
    from rfcx_kit.motif.triplets import LiveTiles, TripletConfig, generate_triplets
    from rfcx_kit.sound.mel import MelConfig

    corpus = read_corpus(place / "forest")
    tiles = LiveTiles(generate_triplets(pd.read_parquet(place / "out/motifs.parquet"), corpus, 40, TripletConfig(seconds=0.5)), corpus.recordings)
    config = embed.EmbedConfig("tilenet", 4, batch_size=2, batches=2, rounds=2, precision="32-true", mel=MelConfig(n_mels=16, hop_length=2048))
    whole = embed.load_embedding(embed.fit(place / "whole", tiles, config))

    class Stopped(LiveTiles):
        left = 32 + 4 + 8 + 3  # what the network listens to first, round 0, its validation, and into round 1

        def __getitem__(self, i):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__getitem__(i)

    with pytest.raises(KeyboardInterrupt):
        embed.fit(place / "stopped", Stopped(tiles.triplets, corpus.recordings), config)
    assert (place / "stopped/last.ckpt").exists() and not (place / "stopped/model.pt").exists()
    embed.load_embedding(place / "stopped/interrupted.pt")
    again = embed.load_embedding(embed.fit(place / "stopped", tiles, config))
    for name, a in whole.state_dict().items():
        np.testing.assert_allclose(a, again.state_dict()[name], atol=1e-5, err_msg=name)


def test_candidates_never_meet_an_expert(place):
    corpus = read_corpus(place / "forest").train
    for row in candidates(corpus, elsewhere=True, least=0.4).itertuples():
        own = corpus.annotations[(corpus.annotations.recording_id == row.recording_id) & (corpus.annotations.species_id == row.species_id)]
        assert ((own.t_min >= row.t_max) | (own.t_max <= row.t_min)).all() and row.weight < 1


def test_mistakes_are_one_sentence(place, capsys):
    forest = str(place / "forest")
    for args, said in (
        (["motif", "extrakt"], "did you mean motif extract?"),
        (["motif", "consolidate", forest, str(place / "nothing")], "run `rfcx motif extract`"),
        (["motif", "track", forest, str(place / "out/motifs.parquet"), str(place / "t.wav"), "--index", "best"], "motif_0"),
        (["motif", "embed", "summary", str(place / "forest/train_tp.csv")], "is no embedding"),
        (["motif", "classify", "predict", str(place / "out/motifs.parquet"), forest, str(place), "x.csv"], "holds no classifier"),
        (["motif", "nocall", "predict", str(place / "out/motifs.parquet"), str(place / "no.txt"), "x.csv"], "no such model"),
        (["motif", "generate-triplets", forest, str(place / "no.parquet"), "x.parquet"], "no such table"),
        (["motif", "generate-triplets", forest, str(place / "forest/train_tp.csv"), "x.parquet"], "is no table of rfcx motif consolidate"),
        (["motif", "search", forest, str(place / "forest/train_tp.csv"), "0", "2"], "not a sound file"),
        (["motif", "search", forest, str(place / "forest/train/tr00000.flac"), "3", "1"], "no stretch of it"),
        (["motif", "search", forest, str(place / "forest/train/tr00000.flac"), "1", "2", "--points", "p.parquet"], "name it with --model"),
        (["motif", "extract", forest, str(place / "x"), "--dask", "local"], "--metric znorm"),
        (["motif", "embed", "fit", forest, forest, str(place / "x")], "holds no triplets"),
        (["motif", "sample", forest, str(place / "out/motifs.parquet"), str(place / "x"), "--k", "-3"], "one motif or more"),
    ):
        assert main(args) in (1, 2)
        assert said in capsys.readouterr().err, args


@pytest.mark.parametrize("seconds", [7.0, 7.03, 6.999])
def test_any_length_is_heard(seconds, tmp_path):
    "Also where the last frame is not whole."
    from rfcx_kit.motif.search import cut_query
    from rfcx_kit.motif.profile import recording_features
    from rfcx_kit.sound.audio import write_audio

    wave = 0.1 * np.random.default_rng(0).normal(size=round(seconds * 32_000)).astype("float32")
    write_audio(tmp_path / "a.flac", wave, 32_000)
    x = recording_features(tmp_path / "a.flac", MEL)
    assert x.shape[1] == 1 + len(wave) // MEL.hop and np.isfinite(x).all()
    for t_min, t_max in ((3, 2), (-1, 2), (7.5, 8)):
        with pytest.raises(ValueError, match="no stretch of it"):
            cut_query(tmp_path / "a.flac", t_min, t_max)


def test_other_tiles_replace_old_shards(place, tmp_path):
    from rfcx_kit.motif import embed
    from rfcx_kit.motif.triplets import LiveTiles, TripletConfig, extract_triplets, generate_triplets

    corpus, motifs = read_corpus(place / "forest"), pd.read_parquet(place / "out/motifs.parquet")
    many, few = (generate_triplets(motifs, corpus, n, TripletConfig(seconds)) for n, seconds in ((12, 0.5), (5, 0.25)))
    extract_triplets(many, corpus.recordings, tmp_path / "shards", shard=4)
    made = extract_triplets(few, corpus.recordings, tmp_path / "shards", shard=4)
    assert len(made) == 5 and made[4].shape == (3, 8000)
    embed._claim(tmp_path / "run", made, embed.EmbedConfig(), None)
    with pytest.raises(ValueError, match="samples of a tile"):
        embed._claim(tmp_path / "run", LiveTiles(few.assign(seconds=0.5), corpus.recordings), embed.EmbedConfig(), None)


def test_what_is_unknown_is_no_silence(place, tmp_path):
    "A gate is not learnt from recordings of which nobody said that all calls are annotated."
    from rfcx_kit.motif.commands import nocall_cv

    windows = pd.DataFrame(dict(recording_id=read_corpus(place / "forest").train.recordings.index, t_min=0.0, t_max=2.0, e0=1.0))
    windows.to_parquet(tmp_path / "points.parquet")
    with pytest.raises(ValueError, match="unknown: give --truth"):
        nocall_cv(str(tmp_path / "points.parquet"), str(place / "forest"))


def test_silence_is_no_motif():
    made = matrix_profile(np.full((12, 300), np.nan), 50)
    assert motifs(made).empty and (made.index == -1).all()


def test_stumpy_on_dask(place, tmp_path):
    "Its distributed form gives the same profile, and the command takes it."
    distributed = pytest.importorskip("distributed")
    x = np.random.default_rng(1).normal(size=(3, 150))
    x[:, 60:70] = np.nan
    with distributed.Client(processes=False, dashboard_address=None) as client:
        spread, alone = matrix_profile(x, 12, metric="znorm", client=client), matrix_profile(x, 12, metric="znorm")
    np.testing.assert_allclose(spread.distance, alone.distance, atol=1e-9)
    assert np.array_equal(spread.index, alone.index)
    pd.DataFrame({"path": [str(place / "forest/train/tr00000.flac")]}).to_csv(tmp_path / "one.csv", index=False)
    flags = ["--feature", "mel", "--mp-window", "10", "--metric", "znorm"]
    for out, more in (("alone", []), ("spread", ["--dask", "local"])):
        assert main(["motif", "extract", str(tmp_path / "one.csv"), str(tmp_path / out), *flags, *more]) == 0
    made = [ProfileStore.open(tmp_path / out).read("tr00000") for out in ("alone", "spread")]
    np.testing.assert_allclose(made[0]["motif"], made[1]["motif"], atol=1e-9)
    assert len(made[0]["motif"])


def test_map_by_umap():
    pytest.importorskip("umap")
    from rfcx_kit.motif.embed import flat

    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(20, 8)), 50 + rng.normal(size=(20, 8))])
    plane = flat(points, "umap")
    assert plane.shape == (40, 2) and np.array_equal(plane, flat(points, "umap"))
    near = np.linalg.norm(plane[:20] - plane[:20].mean(0), axis=1).max()
    assert np.linalg.norm(plane[:20].mean(0) - plane[20:].mean(0)) > 2 * near  # two clouds stay two


def test_across_recordings(place, capsys):
    "Motifs that two recordings share, their neighbours, and the best of all; one folder with two settings says which there are."
    def rfcx(*args):
        assert main(["motif", *map(str, args)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    forest, out = place / "forest", place / "across"
    for flags in (FLAGS, [*FLAGS, "--across"]):
        said = rfcx("extract", forest, out, *flags)
        assert "17 made" in said
    folder = said.split(":")[0]
    assert main(["motif", "consolidate", str(forest), str(out)]) == 1
    error = capsys.readouterr().err
    assert "2 settings" in error and f"{folder} (mel, shared, window 10 at 10 a second, across 17 recordings)" in error
    rfcx("consolidate", forest, folder)
    table = pd.read_parquet(f"{folder}/motifs.parquet")
    assert (table.recording_id != table.other_id).all() and table.attrs["config"]["metric"] == "shared"
    assert "neighbours of 34 motifs and discords" in rfcx("neighbours", forest, f"{folder}/motifs.parquet", place / "near.csv", "--k", 2, "--elsewhere")
    near = pd.read_csv(place / "near.csv").groupby("motif").first()
    motif = table[(table.kind == "motif") & (table["rank"] == 0)]
    closest = near.loc[motif.index]
    elsewhere = closest.recording_id != motif.recording_id  # or its own recording holds a nearer one
    assert elsewhere.any() and np.allclose(closest.distance[elsewhere], motif.distance[elsewhere], rtol=1e-3)
    assert "6 clips" in rfcx("extract-top", forest, f"{folder}/motifs.parquet", place / "overall", "--overall", 3)
    assert "200 triplets" in rfcx("generate-triplets", forest, f"{folder}/motifs.parquet", place / "t2.parquet", "--samples", 200)


def test_a_gate_remembers_what_it_learnt(place, capsys, tmp_path):
    from rfcx_kit.motif.nocall import NocallConfig, fit

    corpus, rng = read_corpus(place / "forest"), np.random.default_rng(0)
    ids = list(corpus.train.recordings.index)
    windows = pd.DataFrame(dict(recording_id=np.repeat(ids, 20), t_min=np.tile(np.arange(20) / 2, len(ids))))
    windows = windows.assign(t_max=windows.t_min + 0.5, e0=rng.normal(size=len(windows)), e1=rng.normal(size=len(windows)))
    windows.to_parquet(tmp_path / "points.parquet")
    learnt = windows[windows.recording_id.isin(ids[:10])]
    fit(learnt, learnt.e0 > 0, learnt.recording_id.to_numpy(), tmp_path / "gate.txt", NocallConfig(rounds=5))
    ask = lambda half, truth: main(["motif", "nocall", "predict", str(tmp_path / "points.parquet"), str(tmp_path / "gate.txt"), str(tmp_path / "calls.csv"),
                                    "--corpus", str(place / "forest"), "--truth", str(place / f"forest/truth_{truth}.csv"), "--half", half])
    assert ask("train", "train") == 0 and f"on {len(ids) - 10} recordings that the gate did not learn from" in capsys.readouterr().out
    assert ask("all", "train") == 1 and "tells no call of the test half" in capsys.readouterr().err
    windows[windows.recording_id.isin(ids[:10])].to_parquet(tmp_path / "points.parquet")
    assert ask("train", "train") == 1 and "learnt from all 10 recordings" in capsys.readouterr().err
    windows.rename(columns={"e1": "e2"}).to_parquet(tmp_path / "points.parquet")
    assert ask("train", "train") == 1 and "lacks 1 of them (e1)" in capsys.readouterr().err


def test_across_a_recording_shorter_than_a_window(place, tmp_path):
    forest = place / "forest/train"
    write_audio(tmp_path / "short.wav", read_audio(forest / "tr00000.flac")[: RATE // 2], RATE)
    (tmp_path / "copy.flac").write_bytes((forest / "tr00001.flac").read_bytes())
    pd.DataFrame({"path": [*(str(forest / f"tr0000{n}.flac") for n in range(3)), "short.wav", "copy.flac"]}).to_csv(tmp_path / "m.csv", index=False)
    corpus = read_corpus(tmp_path / "m.csv")
    store = ProfileStore(tmp_path / "out", MEL, corpus.recordings)
    assert store.build(corpus.recordings).made == 5 and len(store.read("short")["motif"]) == 0
    table = consolidate(ProfileStore.open(tmp_path / "out"), corpus)
    pairs = set(zip(table.recording_id, table.other_id))
    assert set(table.recording_id) == {"tr00000", "tr00001", "tr00002", "copy"} and not pairs & {("tr00001", "copy"), ("copy", "tr00001")}  # a copy is no other recording


def test_a_discord_is_not_what_it_is_unlike(place):
    from rfcx_kit.motif.mine import species_under

    corpus = read_corpus(place / "forest")
    table = pd.read_parquet(place / "out/motifs.parquet")
    discord = table.kind == "discord"
    assert np.array_equal(table.species_id[discord], species_under(corpus.annotations, table[discord]))
    assert (table.species_id[~discord].to_numpy() != species_under(corpus.annotations, table[~discord])).any()  # a motif has the species of either end


def test_profiles_of_another_sound_are_not_taken(place, tmp_path, capsys):
    synthesize(tmp_path / "other", train=2, test=1, seconds=10, seed=5)
    assert main(["motif", "consolidate", str(tmp_path / "other"), str(place / "out")]) == 1
    assert "holds no profile of this corpus" in capsys.readouterr().err


def test_mended_sound_is_noticed(place, tmp_path):
    from rfcx_kit.motif import embed
    from rfcx_kit.motif.mine import extract_clips
    from rfcx_kit.sound.mel import MelConfig

    wave = read_audio(place / "forest/train/tr00000.flac")
    write_audio(tmp_path / "a.flac", wave, RATE)
    (tmp_path / "b.flac").write_bytes(b"broken")
    pd.DataFrame({"path": ["a.flac", "b.flac"]}).to_csv(tmp_path / "m.csv", index=False)
    recordings = read_corpus(tmp_path / "m.csv").recordings
    model = embed.Tile2Vec(embed.EmbedConfig(dim=4, mel=MelConfig(n_mels=16, hop_length=2048)))
    assert set(pd.read_parquet(embed.transform(model, recordings, tmp_path / "p.parquet")).recording_id) == {"a"}
    rows = pd.DataFrame(dict(recording_id=["a"], t_min=1.0, t_max=2.0))
    extract_clips(rows, recordings, tmp_path / "clips")
    write_audio(tmp_path / "b.flac", wave, RATE)
    with pytest.raises(ValueError, match="a file was changed, or mended"):
        embed.transform(model, recordings, tmp_path / "p.parquet")
    write_audio(tmp_path / "a.flac", wave[::-1], RATE)
    clip = extract_clips(rows, recordings, tmp_path / "clips").path[0]
    np.testing.assert_allclose(read_audio(tmp_path / "clips" / clip), wave[::-1][RATE : 2 * RATE], atol=1e-4)


def test_what_fails_leaves_what_was(tmp_path):
    from rfcx_kit.motif import classify, nocall

    rng = np.random.default_rng(0)
    windows = pd.DataFrame(dict(recording_id=np.repeat(list("abcdefghij"), 20), t_min=np.tile(np.arange(20), 10), t_max=np.tile(np.arange(20) + 1, 10), e0=rng.normal(size=200)))
    nocall.fit(windows, windows.e0 > 0, windows.recording_id.to_numpy(), tmp_path / "gate.txt", nocall.NocallConfig(rounds=3))
    before = (tmp_path / "gate.txt").read_bytes()
    one = (windows.recording_id == "a") & (windows.t_min == 0)  # a single call: whatever fold it is in, one of both sides has none
    with pytest.raises(ValueError, match="same label"):
        nocall.fit(windows, one, windows.recording_id.to_numpy(), tmp_path / "gate.txt", nocall.NocallConfig(rounds=3))
    assert (tmp_path / "gate.txt").read_bytes() == before
    species = np.where(windows.e0 > 0, "x", "y")
    said = classify.train(windows, species, tmp_path / "species")(windows)
    with pytest.raises(ValueError, match="1 of 200 rows hold NaN"):
        classify.train(windows.assign(e0=windows.e0.mask(windows.index == 3)), species, tmp_path / "species", classify.ClassifyConfig("lightgbm"))
    assert classify.load(tmp_path / "species")(windows).equals(said)


def test_rows_of_half_seconds_have_names_of_their_own():
    from rfcx_kit.motif.classify import submission
    from rfcx_kit.motif.nocall import gate_predictions

    scores = pd.DataFrame(dict(recording_id="a", t_min=[0.0, 0.5, 1.0], t_max=[2.5, 3.0, 3.5], owl=[0.1, 0.2, 0.3]))
    rows = submission(scores)
    assert rows.row_id.tolist() == ["a_2.5", "a_3", "a_3.5"]
    calls = pd.DataFrame(dict(recording_id=["a"], t_min=[3.2], t_max=[3.5], call=[0.5]))
    assert gate_predictions(rows, calls, seconds=2.5).owl.tolist() == [0.1, 0.2, 0.15]
    with pytest.raises(ValueError, match="no column row_id"):
        submission(scores, sample=pd.DataFrame(dict(recording_id=["a"], owl=[0.0])))


def test_a_journal_cut_by_a_kill_is_read(place, tmp_path):
    corpus, store = read_corpus(place / "forest"), ProfileStore(tmp_path, MEL)
    store.build(corpus.recordings[:3])
    journal = store.folder / "sources.jsonl"
    text = journal.read_text()
    journal.write_text(text[:-10])  # the last line is half
    assert consolidate(ProfileStore.open(tmp_path), corpus).recording_id.nunique() == 2
    assert journal.read_text() == text[:-10]  # reading leaves it alone


def test_across_hears_nobody_twice_for_a_broken_file(place, tmp_path, monkeypatch):
    from rfcx_kit.motif import mine

    forest = place / "forest/train"
    (tmp_path / "bad.flac").write_bytes(b"broken")
    pd.DataFrame({"path": [*(str(forest / f"tr0000{n}.flac") for n in range(3)), "bad.flac"]}).to_csv(tmp_path / "m.csv", index=False)
    recordings, asked = read_corpus(tmp_path / "m.csv").recordings, []
    hear = mine.recording_features
    monkeypatch.setattr(mine, "recording_features", lambda path, config: asked.append(path) or hear(path, config))
    assert (built := ProfileStore(tmp_path / "out", MEL, recordings).build(recordings)).made == 3 and built.failed == 1
    asked.clear()
    assert ProfileStore(tmp_path / "out", MEL, recordings).build(recordings).there == 3
    assert [str(p).endswith("bad.flac") for p in asked] == [True]
