"The container, checked without an engine: its files are there, its steps are the Makefile's, its compose file is valid."
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from rfcx_kit.cli import COMMANDS


def lines():
    "The Dockerfile's instructions."
    text = (ROOT / "Dockerfile").read_text()
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line and not line.startswith("#")]


def test_dockerfile_copies_what_is_there_and_runs_the_makefile():
    copied = [name for what, rest in lines() if what == "COPY" for name in rest.split()[:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied and all((ROOT / name).exists() for name in copied) and set(copied) == kept
    made = [re.fullmatch(r"make (\w+)", rest) for what, rest in lines() if what == "RUN" and not rest.startswith("apt-get")]
    assert made and all(m and re.search(rf"^{m[1]}:.*##", (ROOT / "Makefile").read_text(), re.M) for m in made)
    needs = re.search(r"^\$\(READY\): (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert set(needs) <= set(copied)


def installed_here(folder):
    "Links to the packages of this environment, without this one and pip: what a registry would have sent."
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().startswith(("rfcx", "__editable__", "pip")):
            (folder / path.name).symlink_to(path)
    return folder


def test_steps_in_a_clean_folder(tmp_path):
    "The Dockerfile line by line, but for FROM and apt-get, with its / in a temporary folder; pip resolves, builds and installs, from no index."
    root, where, command = str(tmp_path / "root"), None, []
    env = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PYTHONPATH": str(installed_here(tmp_path / "site")), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CACHE_DIR": str(tmp_path / "cache")}

    def run(line):
        done = subprocess.run(line, shell=isinstance(line, str), cwd=where, env=env, capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    for what, rest in lines():
        if what == "WORKDIR":
            where = Path(root + rest)
            where.mkdir(parents=True)
        elif what == "COPY":
            *names, to = rest.split()
            for name in names:
                source, target = ROOT / name, where / to / ("" if (ROOT / name).is_dir() else name)
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__")) if source.is_dir() else shutil.copy(source, target)
        elif what == "RUN" and not rest.startswith("apt-get"):
            run(rest)
        elif what == "ENV":
            env |= {k: v.replace("/opt/", f"{root}/opt/").replace("$PATH", env["PATH"]) for k, v in (pair.split("=", 1) for pair in rest.split())}
        elif what in ("ENTRYPOINT", "CMD"):
            command += json.loads(rest)
    assert "make-dataset" in run([root + command[0], *command[1:]])
    assert run(["python", "-c", "import rfcx_kit; print(rfcx_kit.__file__)"]).startswith(root)


def test_compose_services():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {f"{n}{k}" for n in ("train", "predict", "lab") for k in ("", "-cuda")}
    for name, service in services.items():
        assert service["user"] == "${USER_ID:-1000}:${GROUP_ID:-1000}" and any(v.endswith(":/output") for v in service["volumes"])
        assert service["image"].endswith("cuda" if name.endswith("cuda") else "cpu")
        if "lab" not in name:
            assert service["command"][0] in COMMANDS
    assert services["lab"]["ports"] == ["127.0.0.1:8888:8888"] and "deploy" in services["train-cuda"] and "deploy" not in services["train"]


def test_compose_file_is_valid():
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema is not installed")
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_config():
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    done = subprocess.run(["docker", "compose", "--profile", "cuda", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dockerfile_is_clean():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
