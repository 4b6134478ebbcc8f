"What tests share: the repository's root, and real files where they lie beside it."
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data"


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
