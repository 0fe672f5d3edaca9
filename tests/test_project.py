"""What the project says about itself holds: its dependencies, its data files and its programs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "vqtok"
# import names that differ from the names on the registry
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "faiss": "faiss-cpu"}
# declared for others: timm imports torchvision; transformers' Trainer the other two
FOR_OTHERS = {"torchvision", "accelerate", "tensorboard"}
SCRIPTS = sorted([*REPOSITORY.glob("scripts/*.sh"), REPOSITORY / ".ci" / "run"])


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement).group() for requirement in requirements}


def imported_distributions() -> set[str]:
    """Third-party packages that any module of vqtok imports anywhere."""
    modules = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
    third_party = modules - set(sys.stdlib_module_names) - {"vqtok"}
    return {DISTRIBUTIONS.get(name, name).replace("_", "-") for name in third_party}


def test_every_import_is_a_declared_dependency(pyproject):
    extras = pyproject["project"]["optional-dependencies"].values()
    declared = names(pyproject["project"]["dependencies"]).union(*map(names, extras))

    assert imported_distributions() <= declared


def test_every_dependency_is_imported(pyproject):
    declared = names(pyproject["project"]["dependencies"])

    assert declared - FOR_OTHERS <= imported_distributions()


def test_the_version_of_the_package_is_the_one_of_the_project(pyproject):
    import vqtok

    assert vqtok.__version__ == pyproject["project"]["version"]


def test_the_changelog_has_the_version(pyproject):
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")

    assert f"## [{pyproject['project']['version']}]" in changelog


def test_the_sample_photos_are_small_clean_and_described(sample_photos):
    readme = (PACKAGE / "samples" / "README.md").read_text(encoding="utf-8")

    assert len(sample_photos) >= 5
    assert sum(path.stat().st_size for path in sample_photos) < 600_000
    for path in sample_photos:
        with Image.open(path) as photo:
            photo.load()
            assert 256 <= min(photo.size) <= 400
            assert not photo.getexif()
        assert f"`{path.name}`" in readme


def test_the_bundled_tokenizers_are_safetensors_within_their_budget():
    files = [path for path in (PACKAGE / "pretrained").rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]

    assert weights
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}
    assert sum(path.stat().st_size for path in files) <= 24_000_000


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_bash(script):
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)

    assert checked.returncode == 0, checked.stderr


def test_ci_runs_only_commands_of_the_readme():
    lines = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")

    assert "bash scripts/test.sh" in commands
    assert all(command in readme.splitlines() for command in commands)
