"The kernels as Kaggle runs them: in an environment of their own, under a file tree like Kaggle's, with the network refused."
import ast
import glob
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from conftest import ROOT
from kaggle_server import Kaggle
from packaging.requirements import Requirement

import rfcx_kit.cli
from rfcx_kit.model.sed import SED, SEDConfig
from rfcx_kit.sound.audio import write_audio
from rfcx_kit.sound.mel import MelConfig
from rfcx_kit.stages.checkpoint import Trained, save_model
from rfcx_kit.stages.dataset import ClipConfig

NOT_THERE = ("audiomentations", "fastcore", "nbdev", "lightning", "pytorch_lightning", "librosa", "kaggle", "jsonargparse", "sklearn", "matplotlib", "albumentations", "IPython")

RUNNER = """
import json, socket, sys
from importlib.util import find_spec
tried = []
def refused(*args, **kwargs): tried.append(repr(args)); raise OSError("the network is off")
for name in ("connect", "connect_ex"): setattr(socket.socket, name, refused)
for name in ("getaddrinfo", "gethostbyname", "create_connection"): setattr(socket, name, refused)
notebook, changes, absent = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
there = [name for name in absent if find_spec(name)]
assert not there, f"this environment has {there}"
space = {"__name__": "__main__"}
for i, cell in enumerate(json.load(open(notebook))["cells"]):
    if cell["cell_type"] != "code": continue
    exec(compile("".join(cell["source"]), f"cell {i}", "exec"), space)
    space.update({k: v for k, v in changes.items() if k in space})
assert not tried, tried
"""


def needed(names: list[str]) -> set[str]:
    "Distributions and all that they need, by the metadata of this environment."
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in found: continue
        found.add(name)
        for line in distribution(name).requires or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}): waiting.append(re.sub(r"[-_.]+", "-", need.name).lower())
    return found


@pytest.fixture(scope="session")
def lean(tmp_path_factory) -> Path:
    "The Python of a fresh environment that has the requirements of prediction, and nothing else."
    folder = tmp_path_factory.mktemp("lean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    settings = (ROOT / "settings.ini").read_text()
    wanted = [Requirement(r).name.lower() for r in re.search(r"^requirements = (.*)$", settings, re.M)[1].split()]
    for name in needed(wanted):
        held = distribution(name)
        for top in {f.parts[0] for f in held.files if not f.parts[0].startswith("..") and f.parts[0] != "__pycache__"}:
            if not (packages / top).exists() and Path(held.locate_file(top)).exists(): (packages / top).symlink_to(held.locate_file(top))
    return folder / "bin/python"


@pytest.fixture(scope="session")
def sent(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    "The library and the models as a loopback Kaggle holds them, pushed by the real client; the run beside it."
    place = tmp_path_factory.mktemp("sent")
    mel, clip, config = MelConfig(n_mels=64), ClipConfig(window=128, overlap=16), SEDConfig(trunk="test_resnet.r160_in1k", n_species=3, pretrained=False)
    for k in range(2):
        torch.manual_seed(k)
        save_model(place / f"run/fold{k}/stage1/model.pt", Trained(SED(config).eval(), config, mel, clip, ["frog", "bird", "bat"]))
    (place / "run/recipe.yaml").write_text("pool: both\n")
    kaggle = Kaggle().start()
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("KAGGLE")}, **kaggle.env(place)}
    for args in (["push-library", "--source", str(ROOT)], ["push-models", str(place / "run"), "--dataset", "my-models"]):
        done = subprocess.run([sys.executable, "-c", "import sys; from rfcx_kit.cli import main; sys.exit(main(sys.argv[1:]))", "kaggle", *args], env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    kaggle.stop()
    return {"rfcx-kit": kaggle.datasets["someone/rfcx-kit"][-1].files, "my-models": kaggle.datasets["someone/my-models"][-1].files, "run": place / "run"}


def lay(folder: Path, files: dict[str, bytes]):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


LAYOUTS = {"old": ("{}", "{}"), "new": ("datasets/someone/{}", "competitions/{}"), "mixed": ("{}", "competitions/{}")}


@pytest.fixture
def kaggle_tree(sent, tmp_path):
    "Make /kaggle/input and /kaggle/working: (layout, the competition's other files, seconds of its test recordings) -> the root, the competition."
    def make(layout: str, sample: str, lengths: list[float], folder: str = "test"):
        root, (datasets, competitions) = tmp_path / "kaggle", LAYOUTS[layout]
        for slug in ("rfcx-kit", "my-models"): lay(root / "input" / datasets.format(slug), sent[slug])
        competition = root / "input" / competitions.format("the-competition")
        (competition / folder).mkdir(parents=True)
        (competition / "sample_submission.csv").write_text(sample)
        rng = np.random.default_rng(0)
        for i, seconds in enumerate(lengths): write_audio(competition / folder / f"rec{i}.flac", rng.normal(0, 0.01, int(32_000 * seconds)).astype(np.float32), 32_000)
        (root / "working").mkdir()
        return root, competition
    return make


def run_notebook(python: Path, name: str, root: Path, absent=NOT_THERE, check: bool = True, **changes):
    "Run the real notebook in that Python, without the network."
    env = {"KAGGLE_ROOT": str(root), "KAGGLE_KERNEL_RUN_TYPE": "Batch", "PATH": os.environ["PATH"], "HOME": str(root), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run([str(python), "-W", "default::UserWarning", "-c", RUNNER, str(ROOT / "nbs/kernels" / f"{name}.ipynb"), json.dumps(changes), json.dumps(absent)], env=env, cwd=root / "working", capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


SAMPLE = "recording_id,s0,s1,s2\n" + "".join(f"rec{i},0,0,0\n" for i in range(4))


def test_infer_is_predict_at_home(lean, kaggle_tree, sent, tmp_path, capsys):
    root, competition = kaggle_tree("old", SAMPLE, [6, 6, 9.3, 1])
    done = run_notebook(lean, "infer", root, PRECISION="32-true")
    assert "2 models of 3 species" in done.stdout and "commit" in done.stdout
    assert rfcx_kit.cli.main(["predict", str(sent["run"]), *map(str, sorted((competition / "test").iterdir())), "--out", str(tmp_path / "home.csv"), "--precision", "32-true"]) == 0
    kernel, home = pd.read_csv(root / "working/submission.csv"), pd.read_csv(tmp_path / "home.csv")
    assert list(kernel) == list(home) and list(kernel.recording_id) == [f"rec{i}" for i in range(4)]
    np.testing.assert_allclose(kernel.iloc[:, 1:], home.iloc[:, 1:], atol=1e-6, rtol=0)
    assert kernel.iloc[:, 1:].std().min() > 0


def test_infer_without_time_or_with_bad_sound_still_submits(lean, kaggle_tree):
    root, competition = kaggle_tree("new", SAMPLE, [6, 6, 6])
    (competition / "test/rec3.flac").write_bytes(b"")
    done = run_notebook(lean, "infer", root, PRECISION="32-true", HOURS=1e-6, WORKERS=0)
    assert "the time is over" in done.stdout and "have no scores and get the mean" in done.stdout + done.stderr
    table = pd.read_csv(root / "working/submission.csv", index_col=0)
    assert list(table.index) == [f"rec{i}" for i in range(4)] and table.notna().all(axis=None)
    done = run_notebook(lean, "infer", root, PRECISION="32-true")  # again: the journal goes on
    assert len((root / "working/journal/journal.jsonl").read_text().splitlines()) == 4 and "empty file" in (root / "working/problems.csv").read_text()


def test_infer_of_segments_and_of_a_hidden_test(lean, kaggle_tree):
    root, competition = kaggle_tree("mixed", "row_id,bat,frog\nsoundscape_5,0.5,0.5\n", [], "test_soundscapes")
    done = run_notebook(lean, "infer", root)
    assert "the sample goes as it is" in done.stdout
    assert pd.read_csv(root / "working/submission.csv").row_id.tolist() == ["soundscape_5"]
    for i in range(2): sf.write(competition / f"test_soundscapes/hidden{i}.ogg", np.random.default_rng(i).normal(0, 0.01, 32_000 * 12), 32_000)
    run_notebook(lean, "infer", root)
    table = pd.read_csv(root / "working/submission.csv", index_col=0)
    assert list(table.index) == [f"hidden{i}_{end}" for i in range(2) for end in (5, 10, 15)] and list(table) == ["bat", "frog"] and table.nunique().min() > 3


def test_infer_says_what_is_not_attached(lean, tmp_path):
    (tmp_path / "kaggle/input/something").mkdir(parents=True)
    (tmp_path / "kaggle/working").mkdir()
    done = run_notebook(lean, "infer", tmp_path / "kaggle", check=False)
    assert done.returncode == 1 and "push-library" in done.stderr and "something" in done.stderr


TINY = """
extends: rfcx_2nd_stage_cpu
model: {trunk: test_resnet.r160_in1k, pretrained: false}
clip: {window: 128, overlap: 16}
mel: {n_mels: 64}
folds: {n: 2}
cycles: 0
stage1: {epochs: 1, workers: 0, precision: 32-true, sample: {refused: 2, anywhere: 2}}
stage2: {epochs: 0}
precision: 32-true
"""


def test_train_goes_on_from_its_own_output(sent, tmp_path):
    root = tmp_path / "kaggle"
    assert rfcx_kit.cli.main(["synth", str(root / "input/competitions/forest"), "--train", "8", "--test", "2", "--seconds", "8", "--tp-per-species", "2"]) == 0
    lay(root / "input/rfcx-kit", sent["rfcx-kit"])
    (root / "working").mkdir()
    (root / "tiny.yaml").write_text(TINY)
    first = run_notebook(sys.executable, "train", root, absent=[], RECIPE=str(root / "tiny.yaml"), FOLDS=["fold0"], WORKERS=1)
    assert "still to train: stage1 fold1" in first.stdout and not (root / "working/submission.csv").exists()
    model = (root / "working/run/fold0/stage1/model.pt").read_bytes()
    shutil.move(root / "working", root / "input/my-train")
    (root / "working").mkdir()
    late = run_notebook(sys.executable, "train", root, absent=[], RECIPE=str(root / "tiny.yaml"), WORKERS=1)
    assert "going on from my-train" in late.stdout and (root / "working/run/fold0/stage1/model.pt").read_bytes() == model
    table = pd.read_csv(root / "working/submission.csv", index_col=0)
    assert len(table) == 2 and (root / "working/run/fold1/stage1/model.pt").exists()


# other Pythons


def interpreters() -> list[str]:
    "Working interpreters of Python 3.11 to 3.13 on this machine."
    found = []
    for minor in (11, 12, 13):
        for path in [shutil.which(f"python3.{minor}"), *glob.glob(os.path.expanduser(f"~/.pyenv/versions/3.{minor}.*/bin/python3.{minor}"))]:
            if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
                found.append(path)
                break
    return found


CHECK = """
import ast, json, sys
from importlib.util import find_spec
for path, text in json.load(sys.stdin).items():
    for node in ast.walk(ast.parse(text, path)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names or top in KNOWN, f"{path}: {name} is in no standard library of Python {sys.version.split()[0]}"
"""


def test_syntax_and_imports_hold_for_other_pythons():
    sources = {p.relative_to(ROOT).as_posix(): p.read_text() for p in (ROOT / "rfcx_kit").rglob("*.py")}
    for path in (ROOT / "nbs/kernels").glob("*.ipynb"):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        sources[path.name] = "\n".join("".join(c["source"]) for c in cells)
    for text in sources.values(): ast.parse(text, feature_version=(3, 11))
    imported = {n.split(".")[0] for t in sources.values() for node in ast.walk(ast.parse(t)) for n in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])}
    known = sorted({"rfcx_kit"} | {n for n in imported if n not in sys.stdlib_module_names})
    assert not {"distutils", "imp", "asynchat", "asyncore", "cgi", "pipes", "pkg_resources", "telnetlib"} & imported, "gone from Python 3.12 or 3.13"
    for python in interpreters():
        done = subprocess.run([python, "-W", "error", "-c", f"KNOWN = {known}{CHECK}"], input=json.dumps(sources), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
