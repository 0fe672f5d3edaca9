"""The floors of vqtok: a folder imports only from floors under it.

errors, devices, lazy < ops < nn, quantizers, metrics < models < training, data, layout, hub < cli.
Folders of one floor do not import each other, but quantizers may use metrics. Imports inside
functions and under TYPE_CHECKING count. transformers, Triton and torch_xla have their own places.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "vqtok"

BASE = {"errors", "devices", "lazy"}
PARTS = {"nn", "quantizers", "metrics"}
BELOW_MODELS = BASE | {"ops"} | PARTS
MAY_IMPORT = {
    "errors": set(),
    "lazy": set(),
    "devices": {"errors"},
    "ops": BASE,
    "nn": BASE | {"ops"},
    "metrics": BASE | {"ops"},
    "quantizers": BASE | {"ops", "metrics"},
    "models": BELOW_MODELS,
    "training": BELOW_MODELS | {"models"},
    # knows a tokenizer only as an object with `tokenize` and a fingerprint
    "data": BELOW_MODELS,
    # knows codes and fingerprints, no models
    "layout": BELOW_MODELS,
    "hub": BELOW_MODELS | {"models"},
    "cli": BELOW_MODELS | {"models", "training", "data", "layout", "hub"},
}
DATA_FOLDERS = {"pretrained", "samples"}
FROM_MODELS_UP = {"models", "training", "data", "layout", "hub", "cli"}


def imported_names(path: Path) -> set[str]:
    """Dotted names that the file imports anywhere, `import_module("...")` included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                names.add("a relative name")
            else:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).split(".")[-1]
            argument = node.args[0]
            if called in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                names.add(str(argument.value))
    return names


def upward_imports(root: Path) -> list[str]:
    """One line for every import that the floors forbid."""
    faults = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        floor = place.parts[0].removesuffix(".py")
        if place == Path("__init__.py"):
            continue  # the roof: lists the public names and registers the models
        if floor not in MAY_IMPORT:
            faults.append(f"{place} is on no floor")
            continue
        for name in sorted(imported_names(path)):
            if name == "a relative name":
                faults.append(f"{place} imports {name}")
            elif name == "vqtok" or name.startswith("vqtok."):
                target = [*name.split("."), "the whole package"][1]
                if target not in MAY_IMPORT[floor] | {floor}:
                    faults.append(f"{place} imports {target}")
    return faults


def stray_vendor_imports(root: Path) -> list[str]:
    """Transformers below the models, Triton or torch_xla outside their own files."""
    faults = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        floor = place.parts[0].removesuffix(".py")
        may_import = {
            "transformers": floor in FROM_MODELS_UP or place == Path("__init__.py"),
            "triton": path.stem.endswith("_cuda"),
            "torch_xla": path.stem.endswith("_xla") or place == Path("devices.py"),
        }
        packages = {name.split(".")[0] for name in imported_names(path)}
        faults += [
            f"{place} imports {package}"
            for package, allowed in may_import.items()
            if package in packages and not allowed
        ]
    return faults


@pytest.fixture
def toy_tree(tmp_path: Path) -> Path:
    """A small package that keeps every rule."""
    files = {
        "__init__.py": "from vqtok.models.auto import AutoVQTokenizer\nimport transformers\n",
        "errors.py": "",
        "devices.py": "def device():\n    import torch_xla\n",
        "ops/nearest.py": "from vqtok.devices import device\nfrom vqtok.ops import packing\n",
        "ops/nearest_cuda.py": "import triton\n",
        "quantizers/vq.py": "from vqtok.ops.nearest import nearest_code\nimport vqtok.metrics\n",
        "models/auto.py": "from vqtok import quantizers\nimport transformers\n",
        "data/reader.py": "from vqtok.ops import packing\nfrom vqtok import errors\n",
        "cli/app.py": "def run():\n    from vqtok.data import reader\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_tree_that_keeps_the_floors_passes(toy_tree):
    assert upward_imports(toy_tree) == []
    assert stray_vendor_imports(toy_tree) == []


@pytest.mark.parametrize(
    ("place", "text", "fault"),
    [
        ("ops/lazy.py", "def f():\n    from vqtok.models import auto\n", "imports models"),
        ("quantizers/side.py", "from vqtok import models\n", "imports models"),
        ("ops/near.py", "from . import nearest\n", "imports a relative name"),
        ("ops/whole.py", "import vqtok\n", "imports the whole package"),
        ("nn/peer.py", "from vqtok.quantizers.vq import x\n", "imports quantizers"),
        ("metrics/peer.py", "import vqtok.quantizers\n", "imports quantizers"),
        ("data/model.py", "from vqtok.models.auto import AutoVQTokenizer\n", "imports models"),
        ("training/peer.py", "from vqtok.data import reader\n", "imports data"),
        ("ops/late.py", "import importlib\nimportlib.import_module('vqtok.nn')\n", "imports nn"),
        ("ops/face.py", "from vqtok import AutoVQTokenizer\n", "imports AutoVQTokenizer"),
        ("errors.py", "from vqtok.devices import device\n", "imports devices"),
        ("utils/misc.py", "", "is on no floor"),
    ],
)
def test_a_planted_upward_import_is_found(toy_tree, place, text, fault):
    (toy_tree / place).parent.mkdir(exist_ok=True)
    (toy_tree / place).write_text(text)

    assert upward_imports(toy_tree) == [f"{place} {fault}"]


@pytest.mark.parametrize(
    ("place", "text", "package"),
    [
        (
            "quantizers/hf.py",
            "def f():\n    from transformers import PreTrainedModel\n",
            "transformers",
        ),
        ("ops/kernel.py", "import triton.language as tl\n", "triton"),
        ("models/tpu.py", "import torch_xla.core\n", "torch_xla"),
    ],
)
def test_a_planted_vendor_import_is_found(toy_tree, place, text, package):
    (toy_tree / place).write_text(text)

    assert stray_vendor_imports(toy_tree) == [f"{place} imports {package}"]


def test_every_floor_imports_only_downward():
    faults = upward_imports(ROOT)

    assert not faults, "\n".join(faults)


def test_vendors_are_imported_only_in_their_own_places():
    faults = stray_vendor_imports(ROOT)

    assert not faults, "\n".join(faults)


def test_every_first_level_name_is_a_floor_or_a_data_folder():
    names = {path.name.removesuffix(".py") for path in ROOT.iterdir()}

    assert names - {"__init__", "__pycache__", "py.typed"} <= MAY_IMPORT.keys() | DATA_FOLDERS


@pytest.mark.parametrize("folder", sorted(DATA_FOLDERS))
def test_data_folders_hold_no_code(folder):
    assert list((ROOT / folder).rglob("*.py")) == []
