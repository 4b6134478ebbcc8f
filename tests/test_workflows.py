"The workflows: schema, security, shell; and the steps of kaggle.yml, run in order in a clean clone, against the loopback Kaggle."
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, clean_clone
from kaggle_server import Kaggle

BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def read(path: Path) -> dict: return yaml.load(path.read_text(), yaml.BaseLoader)  # so that `on` stays a word


def jobs(): return [(path, name, job) for path in WORKFLOWS for name, job in read(path)["jobs"].items()]


def test_schema():
    for schema, files in (("github-workflows", WORKFLOWS), ("dependabot", [ROOT / ".github/dependabot.yml"])):
        done = subprocess.run([str(BIN / "check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *map(str, files)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_has_nothing_to_report():
    done = subprocess.run([str(BIN / "zizmor"), "--offline", "--no-progress", str(ROOT / ".github")], capture_output=True, text=True)
    assert done.returncode == 0 and "No findings to report" in done.stdout + done.stderr, done.stdout + done.stderr


def test_shell():
    for path, name, job in jobs():
        for step in job.get("steps", []):
            if "run" not in step: continue
            assert "${{" not in step["run"], f"{path.name}: values reach a shell by env only"
            done = subprocess.run([str(BIN / "shellcheck"), "--shell", "bash", "-"], input=step["run"], capture_output=True, text=True)
            assert done.returncode == 0, f"{path.name}, {step.get('name')}: {done.stdout}"


def test_privileges():
    for path in WORKFLOWS:
        text, flow = path.read_text(), read(path)
        assert flow["permissions"] == {}, "a workflow has no permission that a job does not ask for"
        for use in re.findall(r"uses: (\S+)", text): assert use.startswith("$/") or re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", use), f"{use} is not pinned by commit"
        assert ("secrets." in text) == (path.name == "kaggle.yml")
    kaggle, test = read(ROOT / ".github/workflows/kaggle.yml"), read(ROOT / ".github/workflows/test.yml")
    assert set(test["on"]) == {"pull_request", "workflow_call"} and len(test["jobs"]["test"]["strategy"]["matrix"]["python"]) == 3
    assert kaggle["on"]["push"]["branches"] == ["main"] and kaggle["jobs"]["push"]["needs"] == "test" and kaggle["jobs"]["push"]["environment"] and kaggle["concurrency"]
    holders = [(name, i) for name, job in kaggle["jobs"].items() for i, step in enumerate(job.get("steps", [])) if "secrets." in str(step)]
    assert len(holders) == 1 and "secrets." not in str({k: v for k, v in kaggle["jobs"]["push"].items() if k != "steps"}), "secrets stand in one step's env"
    publish = read(ROOT / ".github/workflows/release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and "password" not in str(publish)


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> tuple[Path, Path]:
    "A clean clone, and a Python such as setup-python would give; it sees the packages of this environment, so that nothing is downloaded."
    place = tmp_path_factory.mktemp("runner")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "python")], check=True)
    packages = next((place / "python").glob("lib/python*/site-packages"))
    here = next(p for p in sys.path if p.endswith("site-packages"))
    (packages / "runner.pth").write_text(here)
    return clean_clone(place / "clone"), place / "python/bin"


def run_steps(runner, kaggle: Kaggle, home: Path, first: int = 0, **secrets: str) -> str:
    "The `run` steps of kaggle.yml's push job, from the first on, as they stand there, with the values that GitHub would fill in; what they said."
    clone, python = runner
    values = {"secrets.KAGGLE_API_TOKEN": "", "vars.KAGGLE_DATASET": "", **secrets}
    said = ""
    for step in [s for s in read(ROOT / ".github/workflows/kaggle.yml")["jobs"]["push"]["steps"] if "run" in s][first:]:
        own = {k: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda m: values[m[1]], v) for k, v in step.get("env", {}).items()}
        env = {k: v for k, v in os.environ.items() if not k.startswith(("KAGGLE", "PYTHON", "VIRTUAL"))}
        env |= {k: v for k, v in kaggle.env(home).items() if k != "KAGGLE_API_TOKEN"} | {"PATH": f"{python}:{env['PATH']}", "CI": "true", "PIP_NO_INDEX": "1"} | own
        done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], cwd=clone, env=env, capture_output=True, text=True)
        said += done.stdout + done.stderr
        assert done.returncode == 0, f"{step.get('name')}: {said}"
    return said


def test_the_steps_of_kaggle_yml_really_run(runner, tmp_path):
    kaggle = Kaggle().start()
    secrets = {"secrets.KAGGLE_API_TOKEN": kaggle.token}
    said = run_steps(runner, kaggle, tmp_path, **secrets)
    files = kaggle.datasets["someone/rfcx-kit"][-1].files
    head = subprocess.run(["git", "-C", str(runner[0]), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert f"commit {head}\n" in files["VERSION"].decode() and files["rfcx_kit/__init__.py"] == (runner[0] / "rfcx_kit/__init__.py").read_bytes() and kaggle.token not in said
    module = runner[0] / "rfcx_kit/problems.py"
    module.write_text(module.read_text() + "\n")
    subprocess.run(["git", "-C", str(runner[0]), "-c", "user.name=clone", "-c", "user.email=clone@localhost", "commit", "--quiet", "-am", "a change"], check=True)
    run_steps(runner, kaggle, tmp_path, -1, **secrets, **{"vars.KAGGLE_DATASET": "someone/rfcx-kit"})
    assert len(kaggle.datasets["someone/rfcx-kit"]) == 2 and kaggle.datasets["someone/rfcx-kit"][1].files["rfcx_kit/problems.py"].endswith(b"\n\n")
    kaggle.log.clear()
    assert "::notice title=Nothing pushed::" in run_steps(runner, kaggle, tmp_path, -1) and not kaggle.log, "a fork without a token: a notice, and success"
    kaggle.stop()
