"Every notebook runs, in a fresh process of its own; all are clean, in step with the library and the README."
import json
import os
import shutil
import subprocess
import sys
from filecmp import cmpfiles
from pathlib import Path

import pytest
from conftest import ROOT
from nbdev.clean import clean_nb

NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)

WALKTHROUGH = {"RFCX_SIZE": "tiny"}  # the walkthrough notebooks in seconds, each in a folder of its own


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs(name, tmp_path):
    command = [str(Path(sys.executable).parent / "nbdev_test"), "--path", name, "--n_workers", "0", "--do_print"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg", **WALKTHROUGH, "RFCX_WORK": str(tmp_path), "TMPDIR": str(tmp_path)}, timeout=3600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_clean(name):
    from execnb.nbio import read_nb

    nb = read_nb(ROOT / name)
    before = json.dumps(nb, sort_keys=True, default=str)
    clean_nb(nb)
    assert json.dumps(nb, sort_keys=True, default=str) == before, f"run: nbdev_clean --fname {name}"
    kept = json.loads((ROOT / name).read_text())
    cells = kept["cells"]
    assert "widgets" not in kept["metadata"], "a progress bar's state is nothing for a reader"
    assert all("id" in cell for cell in cells), "a cell without an id is never in step"
    for output in (o for cell in cells for o in cell.get("outputs", [])):
        assert output.get("name") != "stderr" and "application/vnd.jupyter.widget-view+json" not in output.get("data", {}), "a warning or a progress bar is no output for a reader"
        shown = [output.get("text", ""), *(v for kind, v in output.get("data", {}).items() if kind.startswith("text/"))]
        assert "/tmp/" not in str(shown), "a path of one machine is no output for a reader"


def test_library_is_in_step(tmp_path):
    for name in ("nbs", "rfcx_kit"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([str(Path(sys.executable).parent / "nbdev_export")], cwd=tmp_path, check=True, capture_output=True)
    exported = {p.relative_to(tmp_path / "rfcx_kit").as_posix() for p in (tmp_path / "rfcx_kit").rglob("*.py")}
    _, different, missing = cmpfiles(tmp_path / "rfcx_kit", ROOT / "rfcx_kit", sorted(exported), shallow=False)
    assert not different and not missing, f"run: make notebooks ({different + missing})"


def test_every_module_comes_from_a_notebook():
    for path in (ROOT / "rfcx_kit").rglob("*.py"):
        if path.name in ("__init__.py", "_modidx.py"):
            continue
        source = next(line for line in path.read_text().splitlines() if "File to edit:" in line).split("File to edit: ")[1].rstrip(".")
        assert (path.parent / source).resolve().exists(), f"{path}: its notebook {source} is gone"


def test_readme_is_in_step():
    command = [str(Path(sys.executable).parent / "jupyter"), "nbconvert", "--log-level=ERROR", "--to", "markdown", "--stdout", "nbs/index.ipynb"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "README.md").read_text(), "run: make readme"
