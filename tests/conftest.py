"What tests share: the repository's root, a clean clone of it, and real files where they lie beside it."
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data"


def clean_clone(folder: Path) -> Path:
    "What git knows of the repository, as it lies here now, committed in a repository of its own."
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        if not (ROOT / name).is_file(): continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=clone", "-c", "user.email=clone@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "-m", "as it lies here"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    "The repository."
    return ROOT


@pytest.fixture(scope="session")
def real() -> Path:
    "Real recordings and tables beside the repository; a test that wants them is skipped elsewhere."
    if not REAL.exists():
        pytest.skip("no real data beside the repository")
    return REAL
