"The house: a wing imports from earlier wings only, and the front door opens fast."
import ast
import subprocess
import sys

from conftest import ROOT

WINGS = ["labels", "sound", "model", "stages", "motif", "sync"]
GROUND = {"problems", "journal", "__version__"}


def imported(path):
    "The rfcx_kit modules that a file imports, as parts below the package; relative imports are resolved."
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            below = package[: len(package) - node.level + 1] if node.level else ()
            parts = [*below, *(node.module.split(".") if node.module else [])]
            if parts[0] == "rfcx_kit":
                yield from [parts[1:]] if parts[1:] else [[alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("rfcx_kit.")]


def test_wings_import_only_earlier_wings():
    for path in (ROOT / "rfcx_kit").rglob("*.py"):
        place = path.relative_to(ROOT / "rfcx_kit").parts
        if path.name in ("_modidx.py", "__init__.py"):
            continue
        for parts in imported(path):
            if len(place) == 2:
                early = GROUND | set(WINGS[: WINGS.index(place[0]) + 1])
                assert parts[0] in early, f"{path} imports rfcx_kit.{'.'.join(parts)}"
            elif place[0].removesuffix(".py") in GROUND:
                assert parts[0] in GROUND, f"{path} imports rfcx_kit.{'.'.join(parts)}"


def test_numbers_give_one_reading_order():
    for wing in WINGS:
        numbers = [path.name.split("_")[0] for path in (ROOT / "nbs" / wing).glob("*.ipynb")]
        assert len(numbers) > 1 and len(set(numbers)) == len(numbers), f"nbs/{wing}: two notebooks have one number"


def test_import_is_light():
    code = "import sys, rfcx_kit; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_labels_load_no_torch():
    code = "import sys, rfcx_kit.labels.corpus, rfcx_kit.labels.targets, rfcx_kit.model.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
