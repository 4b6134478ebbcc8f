"The house: a wing imports from earlier wings only, and the front door opens fast."
import ast
import subprocess
import sys

from conftest import ROOT

WINGS = ["labels", "sound", "model", "stages", "motif", "sync"]
GROUND = {"problems", "journal"}


def imported(path):
    "Names of rfcx_kit modules that a file imports, as parts."
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module and node.module.startswith("rfcx_kit"):
            parts = node.module.split(".")[1:]
            yield from [parts] if parts else [[alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield ["relative"]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("rfcx_kit.")]


def test_wings_import_only_earlier_wings():
    for path in (ROOT / "rfcx_kit").rglob("*.py"):
        place = path.relative_to(ROOT / "rfcx_kit").parts
        if path.name in ("_modidx.py", "__init__.py"):
            continue
        for parts in imported(path):
            assert parts != ["relative"], f"{path}: relative imports hide the direction"
            if len(place) == 2:
                early = GROUND | set(WINGS[: WINGS.index(place[0]) + 1])
                assert parts[0] in early, f"{path} imports rfcx_kit.{'.'.join(parts)}"
            elif place[0].removesuffix(".py") in GROUND:
                assert parts[0] in GROUND, f"{path} imports rfcx_kit.{'.'.join(parts)}"


def test_import_is_light():
    code = "import sys, rfcx_kit; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_labels_load_no_torch():
    code = "import sys, rfcx_kit.labels.corpus, rfcx_kit.labels.targets, rfcx_kit.model.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
