"""The table of the BirdCLEF page: recipes beside a plain clip classifier of the same trunk and budget, on real clips and on soundscapes.

    python nbs/walkthrough/measure_birdclef.py --field FIELD --soundscapes CORPUS --out FOLDER
    ... --rows "plain clip classifier" birdclef2021_2nd --seeds 1 2 --epochs 12 --jobs 2   # less of it, two rows at a time

FIELD holds `calls/<class>/*` and `backgrounds/*`; CORPUS is a folder with `test/*` and `truth_test.csv` whose calls are the last 40 % of each class (and
backgrounds), none of which is trained on here. Killed, the same command goes on, within a row with the fold that it was in; a finished (configuration, seed,
epochs) is a line of FOLDER/results.csv. Every job takes one core.
"""
import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rfcx_kit.labels.corpus import Corpus, annotation_table, read_truth, recording_table, sound_headers, species_table
from rfcx_kit.labels.folds import class_folds
from rfcx_kit.journal import whole
from rfcx_kit.model.losses import LossConfig
from rfcx_kit.model.metrics import macro_auc, macro_f1, padded_cmap
from rfcx_kit.model.parts import ClipNetConfig
from rfcx_kit.sound.audio import read_audio, write_audio
from rfcx_kit.sound.mel import MelConfig
from rfcx_kit.stages.clips import WeakConfig
from rfcx_kit.stages.crossval import ClipRecipe, clip_truth, open_cv, row_truth, run_cv
from rfcx_kit.stages.detections import file_maximum, predict_rows, smooth_rows
from rfcx_kit.stages.train import TrainConfig

RATE, TRUNK = 16_000, "test_resnet.r160_in1k"
DONE = ["configuration", "seed", "epochs"]


def first_part(items, share=0.4):
    "What is not in the last 40 % of a sorted list: fieldbench's training half."
    items = sorted(items)
    return items[: -max(1, round(len(items) * share))]


def trill(notes, rng):
    "Renditions of short notes in a row, at least three seconds."
    parts = []
    while sum(map(len, parts)) < 3 * RATE:
        parts += [notes[rng.integers(len(notes))], np.zeros(int(rng.uniform(0.03, 0.12) * RATE), np.float32)]
    return np.concatenate(parts)


def make_clips(field: Path, out: Path) -> Path:
    "A manifest of clips by class, folds by source; notes of one source recording become one clip."
    manifest = out / "clips.csv"
    if manifest.exists():
        return manifest
    import soundfile

    rng, rows = np.random.default_rng(0), []
    for folder in sorted(p for p in (field / "calls").iterdir() if p.is_dir()):
        sources = {}
        for path in first_part(folder.iterdir()):
            source = path.name.split("_")[0] if folder.name.startswith("note") else "-".join(path.name.split("-")[:2])
            sources.setdefault(source, []).append(path)
        for source, paths in sources.items():
            if folder.name.startswith("note"):  # too short for a recording of their own
                notes = [soundfile.read(p, dtype="float32")[0][::2] for p in paths]
                waves = {f"{folder.name}-{source}": trill(notes, rng)}
            else:
                waves = {f"{folder.name}-{p.stem}": read_audio(p, RATE) for p in paths}
            for name, wave in waves.items():
                path = out / "clips" / f"{name}.flac"
                write_audio(path, 0.5 * wave / max(np.abs(wave).max(), 1e-6), RATE)
                rows.append({"path": str(path), "class": folder.name, "source": f"{folder.name}-{source}"})
    for path in first_part((field / "backgrounds").iterdir()):
        write_audio(out / "noise" / f"{path.stem}.flac", read_audio(path, RATE), RATE)
    table = pd.DataFrame(rows)
    table["fold"] = class_folds(table["class"], table.source, 2, 0)
    with whole(manifest) as tmp:
        table.rename(columns={"source": "group"}).to_csv(tmp, index=False)
    return manifest


def recipes(manifest: Path, out: Path, classes: list[str], epochs: int) -> dict:
    "Name -> recipe; all see crops of five seconds, so many epochs, the same trunk and noise."

    def one(head="gem", parts=1, activation="sigmoid", loss="masked_mean", trunk=TRUNK, smoothing=0.0, epochs=epochs, **weak):
        return ClipRecipe(
            str(manifest), "", classes, mel=MelConfig(RATE, 1024, 256, 64, 50, 7_900), n_folds=2, precision="32-true",
            model=ClipNetConfig(trunk, head=head, parts=parts, part_seconds=5.0 / parts, activation=activation),
            weak=WeakConfig(short="wrap", smoothing=smoothing, rating=False, noise=[str(out / "noise")], noise_p=0.8, noise_snr=[-3.0, 12.0], **weak),
            train=TrainConfig(epochs=epochs, batch_size=16, lr=2e-3, schedule="onecycle", precision="32-true", validate_every=0, loss=LossConfig(loss)))

    return {
        "plain clip classifier": one(),
        "birdclef2021_2nd": one(parts=5, mix=1.0, mix_p=0.5, mix_parts=1.0, smoothing=0.01),
        "parts, no mixing": one(parts=5),
        "plain, mixup": one(mix=1.0, mix_p=0.5, smoothing=0.01),
        "birdclef2022_selective": one(parts=5, head="sed", loss="bce_focal_2way", smoothing=0.01, selective="two_loaders", scored=classes[::2]),
        "sound_classification": one(parts=5, activation="softmax", loss="cross_entropy", mix=1.0, mix_p=0.5),
        "birdclef2022_selective, split batch": one(parts=5, head="sed", loss="bce_focal_2way", smoothing=0.01, selective="split_batch", scored=classes[::2], epochs=max(1, epochs // 2)),  # its epochs have twice the steps
        "plain, sound_conformer": one(trunk="sound_conformer"),
        "plain, sound_fdy": one(trunk="sound_fdy"),
        "plain, sound_swin": one(trunk="sound_swin"),
    }


def soundscapes(folder: Path, out: Path, classes: list[str]) -> Corpus:
    "The test recordings with their complete truth, at the clips' rate."
    files = sorted((folder / "test").glob("*.flac"))
    paths = [out / "soundscapes" / f.name for f in files]
    for source, path in zip(files, paths):
        if not path.exists():
            write_audio(path, read_audio(source, RATE), RATE)
    heads = sound_headers([str(p) for p in paths])
    recordings = recording_table(dict(recording_id=[f.stem for f in files], path=[str(p) for p in paths], seconds=heads.seconds, frames=heads.frames, sample_rate=heads.sample_rate, complete=True, split="test"))
    return Corpus(recordings, annotation_table(read_truth(folder / "truth_test.csv", len(classes))), species_table(classes))


def five_seconds(rows: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    "Rows of any shorter length pooled to five seconds by the maximum."
    return rows.assign(end=np.ceil(rows.end / 5 - 1e-6) * 5).groupby(["path", "end"], sort=False)[classes].max().reset_index().assign(start=lambda r: r.end - 5)


def measure(name: str, recipe: ClipRecipe, seed: int, epochs: int, out: Path, scapes: Corpus) -> dict:
    "One configuration and seed: out of fold on the clips, and the mean of its models on the soundscapes."
    torch.set_num_threads(1)
    began, classes = time.process_time(), recipe.classes
    recipe.seed, recipe.output = seed, str(out / "runs" / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}-{epochs}")
    run = open_cv(recipe, progress=False, say=lambda _: None)
    run_cv(run)
    scores = pd.read_parquet(run.folder / "oof.parquet")
    truth = clip_truth(run.corpus.subset(scores.index))
    rows = five_seconds(predict_rows(sorted(run.folder.glob("fold*/model.pt")), list(scapes.recordings.path), run.folder / "soundscapes", precision="32-true", say=None), classes)
    there = row_truth(scapes, rows)
    after = {"": rows, "_smoothed": smooth_rows(rows, classes, (0.2, 0.6, 0.2)), "_file_max": file_maximum(rows, classes, 0.5)}
    row = dict(configuration=name, seed=seed, epochs=epochs, clips_auc=macro_auc(truth, scores), clips_f1=macro_f1(truth, scores, "argmax"))
    row |= {f"rows_auc{k}": macro_auc(there, r[classes]) for k, r in after.items()} | {f"rows_cmap{k}": padded_cmap(there, r[classes]) for k, r in after.items()}
    return row | dict(cpu_minutes=(time.process_time() - began) / 60)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("field", "soundscapes", "out"):
        p.add_argument(f"--{name}", type=Path, required=True)
    p.add_argument("--rows", nargs="*", default=[], help="configurations to measure; default: all")
    p.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    p.add_argument("--epochs", type=int, default=24)
    p.add_argument("--recordings", type=int, default=60, help="soundscapes to score")
    p.add_argument("--jobs", type=int, default=1, help="rows measured at a time, a core each")
    a = p.parse_args()
    manifest = make_clips(a.field, a.out)
    classes = sorted(pd.read_csv(manifest)["class"].unique())
    scapes = soundscapes(a.soundscapes, a.out, classes)
    scapes = scapes.subset(scapes.recordings.index[: a.recordings])
    all_of_them, table = recipes(manifest, a.out, classes, a.epochs), a.out / "results.csv"
    if wrong := set(a.rows) - set(all_of_them):
        p.error(f"no row {', '.join(sorted(wrong))}; there are {', '.join(all_of_them)}")
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    done = {tuple(row[k] for k in DONE) for row in rows}
    todo = [(seed, name) for seed, name in product(a.seeds, a.rows or all_of_them) if (name, seed, a.epochs) not in done]
    with ProcessPoolExecutor(a.jobs, get_context("spawn")) as pool:
        for job in as_completed([pool.submit(measure, name, all_of_them[name], seed, a.epochs, a.out, scapes) for seed, name in todo]):
            row = job.result()
            rows = sorted([*rows, row], key=lambda r: (r["epochs"], r["seed"], list(all_of_them).index(r["configuration"])))
            with whole(table) as tmp:
                pd.DataFrame(rows).to_csv(tmp, index=False)
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
