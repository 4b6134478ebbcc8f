"""The labels wing from end to end: on small tables always, on the real ones where they lie beside the repository."""
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from rfcx_kit.labels.corpus import (RFCX_COLUMNS, Corpus, TableError, annotation_table, conflicts, merge_songtypes, per_species, read_corpus,
                                    read_manifest, read_rfcx, recording_table, songtypes, species_table, summary)
from rfcx_kit.labels.exchange import label_names, read_audacity, read_raven, write_audacity, write_raven
from rfcx_kit.labels.folds import check_folds, check_split, held_out, label_counts, make_folds
from rfcx_kit.labels.targets import frame_targets, pool, published_samples, recording_targets, three_state, window_targets

SHARED = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not (SHARED / "rfcx").is_dir(), reason="the real tables are not here")
HEAD = ",".join(RFCX_COLUMNS)
ROW = "a,0,1,1,100,2,200"


def lay(folder, tp=(ROW,), fp=(), submission="recording_id,s0,s1\nx,0,0\n"):
    folder.mkdir(exist_ok=True)
    for half, rows in (("tp", tp), ("fp", fp)):
        (folder / f"train_{half}.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    if submission: (folder / "sample_submission.csv").write_text(submission)
    return folder


# the door

@pytest.mark.parametrize("row, column, reason", [
    ("a,0,1,2,100,1,200", "t_max", "1 is not after t_min 2"),
    ("a,0,1,1,100,1,200", "t_max", "1 is not after t_min 1"),
    ("a,0,1,1,300,2,200", "f_max", "200 is not above f_min 300"),
    ("a,0,1,nan,100,2,200", "t_min", "empty or NaN"),
    (",0,1,1,100,2,200", "recording_id", "empty or NaN"),
    ("a,0,1,1,100,x,200", "t_max", "'x' is not a number"),
    ("a,0,1,1,100,inf,200", "t_max", "not a finite number"),
    ("a,0,1,1,100,61,200", "t_max", "61 is outside the recording, which ends at 60 s"),
    ("a,0,1,-1,100,2,200", "t_min", "-1 is negative, outside the recording"),
    ("a,0,1,1,100,2,1e300", "f_max", "1e+300 is no frequency in Hz that a recorder hears"),
    ("a,2,1,1,100,2,200", "species_id", "2 is out of range, 0 to 1"),
    ("a,0.5,1,1,100,2,200", "species_id", "0.5 is not a whole number, or too large"),
    ("a,9e99,1,1,100,2,200", "species_id", "9e99 is not a whole number, or too large"),
    ("../a,0,1,1,100,2,200", "recording_id", "'../a' holds a slash: ids become file names"),
    ("a,0,1,1,100,2", "", "6 cells, but the header has 7"),
    (ROW, "", "duplicate, the same as line 2"),
])
def test_bad_rows_are_refused_with_file_line_column_and_reason(tmp_path, row, column, reason):
    with pytest.raises(TableError) as e: read_rfcx(lay(tmp_path / "c", tp=[ROW, row]))
    assert e.value.faults == [("train_tp.csv", 3, column, reason)]


def test_all_faults_of_all_tables_at_once(tmp_path):
    folder = lay(tmp_path / "c", tp=[ROW, "a,0,1,4,100,3,200", "b,9,1,4,300,5,200"], fp=["c,0,1,1,100,99,200"], submission="recording_id,s0,s1\nx,0,0\nx,0,0\na,0,0\n")
    with pytest.raises(TableError) as e: read_rfcx(folder)
    assert [(f.file, f.line, f.column) for f in e.value.faults] == [
        ("sample_submission.csv", 3, "recording_id"), ("sample_submission.csv", 4, "recording_id"), ("train_fp.csv", 2, "t_max"),
        ("train_tp.csv", 3, "t_max"), ("train_tp.csv", 4, "f_max"), ("train_tp.csv", 4, "species_id")]
    assert "train_tp.csv, line 3, t_max: 3 is not after t_min 4" in str(e.value)


@pytest.mark.parametrize("content, reason", [
    (b"", "the file is empty"), (b"\n\n", "the file is empty"), ((HEAD + "\n" + ROW).replace(",", ";").encode(), "separated by ';'"),
    ((HEAD + "\n" + ROW).encode("utf-16"), "not UTF-8"), ((HEAD + ",more\n" + ROW + ",1").encode(), "unknown column"),
    (HEAD.replace("f_min,", "").encode(), "this column is missing"), ((HEAD + ",t_min\n" + ROW + ",1").encode(), "stands twice"),
    ((HEAD + '\n"' + ROW).encode(), "not a table")])
def test_bad_files_are_refused(tmp_path, content, reason):
    folder = lay(tmp_path / "c")
    (folder / "train_tp.csv").write_bytes(content)
    with pytest.raises(TableError, match=reason): read_rfcx(folder)


def test_harmless_oddities_pass(tmp_path):
    folder = lay(tmp_path / "c", tp=[])
    (folder / "train_tp.csv").write_bytes(("\ufeff" + HEAD + "\r\n" + ROW.replace("a,", "00204008,") + "\r\n\r\n").encode())
    corpus = read_rfcx(folder)
    assert corpus.annotations.recording_id.tolist() == ["00204008"]
    empty = read_rfcx(lay(tmp_path / "d", tp=[]))
    assert len(empty.annotations) == 0 and empty.n_species == 2 and len(empty.test.recordings) == 1
    assert recording_targets(empty)[0].shape == (1, 2) and summary(empty).value["confirmed rows"] == 0


def test_what_is_not_there(tmp_path):
    (tmp_path / "c").mkdir()
    for path in (tmp_path / "none", tmp_path / "c"):
        with pytest.raises(FileNotFoundError): read_corpus(path)
        with pytest.raises(FileNotFoundError): read_rfcx(path)
        with pytest.raises(FileNotFoundError): read_manifest(path / "files.csv")


def test_conflicts_are_reported_and_decided_by_name(tmp_path):
    folder = lay(tmp_path / "c", tp=[ROW], fp=["a,0,1,1.5,100,3,200", "a,0,1,2,100,3,200", "a,1,1,1,100,2,200"])
    left = {}
    for policy in ("confirmed", "refused", "drop", "keep"):
        with pytest.warns(UserWarning, match="1 boxes are confirmed and refused.*\na, species 0: 1 to 2 s confirmed, 1.5 to 3 s refused"):
            left[policy] = read_rfcx(folder, conflict=policy).annotations.presence.tolist()
    assert left == {"confirmed": [1, 0, 0], "refused": [0, 0, 0], "drop": [0, 0], "keep": [1, 0, 0, 0]}
    with pytest.raises(ValueError, match="a, species 0"): read_rfcx(folder, conflict="error")
    with pytest.raises(ValueError, match="must be one of"): read_rfcx(folder, conflict="whoever")


def test_sound_is_found_and_a_broken_header_keeps_its_path(tmp_path):
    folder = lay(tmp_path / "c", tp=[ROW, "b,1,1,50,100,59,200"])
    (folder / "train").mkdir()
    soundfile.write(folder / "train" / "a.flac", np.zeros(44_100 * 3), 44_100)
    soundfile.write(folder / "train" / "b.wav", np.zeros(3200), 32_000) # 0.1 s is no recording
    (folder / "train" / "c.ogg").write_text("no sound")
    corpus = read_rfcx(folder)
    assert corpus.recordings.frames.tolist() == [132_300, 0, 0, 0] and corpus.recordings.seconds.tolist() == [3, 60, 60, 60]
    assert corpus.with_sound().recordings.index.tolist() == ["a", "b", "c"] and len(corpus.train.recordings) == 3
    (folder / "train_fp.csv").write_text(f"{HEAD}\na,0,1,2,100,4,200\na,1,1,1,30000,2,40000\n")
    with pytest.raises(TableError) as e: read_rfcx(folder)
    assert [f.column for f in e.value.faults] == ["t_max", "f_min"] # past the end at 3 s, above 22,050 Hz


def test_manifest(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000 * 5), 32_000)
    (tmp_path / "m.csv").write_text("path,species,t_min,t_max,presence,group,split,complete,fold,frames,sr\n"
                                    "a.wav,wren,1,2,1,site1,train,,0,,\na.wav,coqui,1,2,0,site1,train,,0,,\na.wav,wren,,,,site1,train,,0,,\n"
                                    "b.wav,,,,,site2,test,true,1,960000,32000\n")
    corpus = read_corpus(tmp_path / "m.csv")
    assert corpus.recordings.seconds.tolist() == [5, 30] and corpus.recordings.group.tolist() == ["site1", "site2"] and corpus.recordings.complete.tolist() == [False, True]
    assert corpus.annotations[["species_id", "t_min", "t_max", "presence"]].values.tolist() == [[1, 1, 2, 1], [0, 1, 2, 0], [1, 0, 5, 1]]
    assert corpus.annotations.source.tolist() == ["expert", "expert", "weak"] and corpus.recordings.path["b"].endswith("b.wav")
    (tmp_path / "m.csv").write_text("path,species_id,t_min,t_max,weight,sr\na.wav,0,1,9,1,\na.wav,x,1,,-1,\n,1,,,1,\na.wav,-5,,,,1e99\n")
    with pytest.raises(TableError) as e: read_corpus(tmp_path / "m.csv")
    assert [(f.line, f.column) for f in e.value.faults] == [
        (2, "t_max"), (3, "species_id"), (3, "t_max"), (3, "t_min"), (3, "weight"), (4, "path"), (5, "sr"), (5, "species_id")]


# targets

def random_corpus(rng, n_recordings=30, n_species=4, n_boxes=150):
    t = rng.uniform(0, 55, n_boxes)
    rows = dict(recording_id=[f"r{i}" for i in rng.integers(0, n_recordings, n_boxes)], species_id=rng.integers(0, n_species, n_boxes), t_min=t, t_max=t + rng.uniform(.02, 5, n_boxes),
                presence=rng.choice([0, 1, .3, .8], n_boxes), weight=rng.choice([.5, 1], n_boxes), source=rng.choice(["expert", "review", "relabel:1", "weak"], n_boxes))
    return Corpus(recording_table([dict(recording_id=f"r{i}", complete=i % 3 == 0) for i in range(n_recordings)]), annotation_table(rows), species_table(f"s{k}" for k in range(n_species)))


def slow_frames(boxes, n_species, n_frames, seconds, complete):
    "Every frame looks at every box: reviews first, the latest of them; experts before others, present before absent, heavy before light."
    value, weight = np.zeros((n_species, n_frames), np.float32), np.full((n_species, n_frames), complete, np.float32)
    for k in range(n_species):
        rank = dict(expert=(1, 0))
        spans = [((*((2, row) if b.source == "review" else rank.get(b.source, (0, 0))), b.presence, b.weight), int(n_frames * b.t_min / seconds), int(n_frames * b.t_max / seconds))
                 for row, b in enumerate(boxes.itertuples()) if b.species_id == k]
        for n in range(n_frames):
            over = [said for said, start, stop in spans if start <= n < max(stop, start + 1)]
            if over: *_, value[k, n], weight[k, n] = max(over)
    return value, weight


def test_targets_agree_with_the_slow_way():
    corpus, windows = random_corpus(np.random.default_rng(3)), [[0, 128], [100, 228], [200, 328], [300, 428]]
    for rid, row in corpus.recordings.iterrows():
        boxes = corpus.annotations[corpus.annotations.recording_id == rid]
        value, weight = frame_targets(boxes, 4, 400, 60, row.complete)
        slow = slow_frames(boxes, 4, 400, 60, row.complete)
        np.testing.assert_array_equal(value, slow[0]); np.testing.assert_array_equal(weight, slow[1])
        for (a, b), v, w in zip(windows, *window_targets(boxes, windows, 4, 400, 60, complete=row.complete)):
            for mine, pooled in zip((v, w), pool(value[:, a:b], weight[:, a:b])): np.testing.assert_array_equal(mine, pooled)


def test_minimum_overlap():
    boxes = annotation_table([dict(recording_id="r", species_id=0, t_min=9, t_max=12), dict(recording_id="r", species_id=1, t_min=0, t_max=60), dict(recording_id="r", species_id=0, t_min=2, t_max=3, presence=0)])
    windows = [[0, 100], [100, 200]]
    states = {o: three_state(*window_targets(boxes, windows, 2, 600, 60, min_overlap=o)).tolist() for o in (0, .5, 1)}
    assert states[0] == [[1, 1], [1, 1]] # any frame
    assert states[.5] == [[0, 1], [1, 1]] # a third of the call: neither present nor absent; a call longer than the window still counts
    assert states[1] == [[0, 1], [0, 1]]
    with pytest.raises(ValueError, match="share"): window_targets(boxes, windows, 2, 600, 60, min_overlap=50)


def test_nothing_known():
    nothing = annotation_table([])
    assert not np.any(frame_targets(nothing, 3, 10, 1)) and window_targets(nothing, [], 3, 10, 1)[0].shape == (0, 3)
    assert window_targets(nothing, [[0, 5]], 3, 10, 1, complete=True)[1].tolist() == [[1, 1, 1]]
    assert label_counts(Corpus(recording_table([dict(recording_id="a")]), nothing, species_table("ab"))).shape == (1, 4)


# folds

def test_folds_keep_groups_whole_and_are_checked():
    corpus = random_corpus(np.random.default_rng(5))
    corpus.recordings["group"] = [f"g{i // 2}" for i in range(30)]
    folds = make_folds(corpus, 3, repeats=2, seed=7)
    for repeat in range(2):
        held = [held_out(folds, repeat, f) for f in range(3)]
        assert sorted(sum((v for _, v in held), [])) == sorted(corpus.recordings.index)
        for train, valid in held: check_split(corpus, train, valid)
    train, valid = held_out(folds, 0, 0)
    with pytest.raises(ValueError, match="both sides"): check_split(corpus, train + valid[:1], valid)
    brother = f"r{int(valid[0][1:]) ^ 1}" # of the same group
    with pytest.raises(ValueError, match="groups"): check_split(corpus, train + [brother], [v for v in valid if v != brother])
    with pytest.raises(ValueError, match="two folds"): check_folds(pd.concat([folds, folds.head(1).assign(fold=2)]), corpus)
    with pytest.raises(ValueError, match="at most the number of groups, 15"): make_folds(corpus, 16)


def test_folds_without_any_label():
    corpus = Corpus(recording_table([dict(recording_id=f"r{i}") for i in range(9)]), annotation_table([]), species_table("ab"))
    assert make_folds(corpus, 3).fold.value_counts().tolist() == [3, 3, 3]


# the real files

@pytest.fixture(scope="module")
def rfcx():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_rfcx(SHARED / "rfcx")


@real
def test_the_real_tables_in_figures(rfcx):
    said = summary(rfcx).value.to_dict()
    assert said == {
        "species": 24, "recordings": 4727 + 1992, "test recordings": 1992, "recordings with sound": 16, "confirmed rows": 1216, "refused rows": 7781, "other rows (soft)": 0,
        "recordings with confirmed rows": 1132, "recordings with refused rows": 3958, "recordings with both": 363, "recordings with either": 4727,
        "recordings by confirmed rows": "1,065x1, 55x2, 8x3, 3x4, 1x5", "(recording, species) pairs in both": 6, "boxes of them that overlap in time": 0,
        "lowest frequency (Hz)": 93.75, "highest frequency (Hz)": 13687.5, "shortest (s)": 0.272, "longest (s)": 7.9239, "shortest (frames)": 17, "longest (frames)": 496,
        "confirmed, mean duration (s)": 2.5371, "confirmed, median duration (s)": 1.856, "confirmed rows by song type": "1,088 of type 1, 128 of type 4",
        "species with other song types than 1": "s16: 4, s17: 1 and 4, s23: 1 and 4", "classes, song types apart": 26,
        "confirmed rows per species": "50 each, but s2 37, s9 34, s17 40+28, s19 43, s20 40, s22 44, s23 50+50"}
    assert per_species(rfcx).confirmed.sum() == 1216 and per_species(rfcx).refused.sum() == 7781


@real
def test_the_real_targets(rfcx):
    value, weight = recording_targets(rfcx)
    state = three_state(value.to_numpy(), weight.to_numpy())
    yes, no = (rfcx.annotations[rfcx.annotations.presence == p][["recording_id", "species_id"]].drop_duplicates() for p in (1, 0))
    assert (state == 1).sum() == len(yes) == 1161 and (state == -1).sum() == len(no) - 6
    samples = published_samples(rfcx)
    assert len(samples) == 1132 + 3958
    boxes = rfcx.annotations[rfcx.annotations.presence == 1]
    several = boxes[boxes.duplicated(["recording_id", "species_id"], keep=False)]
    for (rid, k), own in several.groupby(["recording_id", "species_id"]): # all boxes of a species are kept
        label, middle = samples[f"{rid}_posi"]
        covered = np.zeros(3751)
        for b in own.itertuples(): covered[int(3751 * b.t_min / 60):int(3751 * b.t_max / 60)] = 1
        assert label[k].tolist() == covered.tolist() and middle[k] > 0


@real
def test_the_real_song_types(rfcx):
    apart = songtypes(rfcx)
    assert apart.n_species == 26 and songtypes(apart).n_species == 26
    assert apart.species.name[apart.species.merges_into.isin([16, 17, 23])].tolist() == ["s16", "s17_1", "s17_4", "s23_1", "s23_4"]
    value, weight = recording_targets(rfcx)
    merged = merge_songtypes((lambda v, w: v.where(w > 0, -1))(*recording_targets(apart)), apart.species)
    pd.testing.assert_frame_equal(merged, value.where(weight > 0, -1), check_names=False, check_column_type=False)


@real
def test_the_real_folds(rfcx):
    folds = make_folds(rfcx, 5, repeats=2)
    counts = label_counts(rfcx.train)
    for repeat in range(2):
        per_fold = counts.groupby(folds[folds["repeat"] == repeat].set_index("recording_id").fold).sum()
        assert ((per_fold - per_fold.mean()).abs() <= np.maximum(3, 0.05 * per_fold.mean())).all(axis=None)


@real
def test_real_raven_and_audacity_tables(tmp_path):
    raven, audacity = SHARED / "boxes" / "Recording_1_Segment_07.Table.1.selections.txt", SHARED / "boxes" / "spinetail.txt"
    assert label_names(audacity) == ["CRER", "SP"] and len(label_names(raven)) == 8
    for path, read, write, n in ((raven, read_raven, write_raven, 279), (audacity, read_audacity, write_audacity, 18)):
        boxes, species = read(path), species_table(label_names(path))
        assert len(boxes) == n and boxes.f_max.notna().all() and boxes.recording_id.nunique() == 1
        write(boxes, tmp_path / path.name, species)
        pd.testing.assert_frame_equal(read(tmp_path / path.name, species), boxes, atol=1e-6)
    assert (read_raven(raven).t_max < 10).sum() == 9 # those that the snippet holds
    spinetail = soundfile.info(SHARED / "boxes" / "spinetail.wav")
    assert len(read_audacity(audacity, seconds=spinetail.duration)) == 18 # none reaches past the end
