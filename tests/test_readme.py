"""The README tells the truth: its Python runs, its commands exist, its file map is the tree."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FOLDERS = ("vqtok", "scripts", "recipes", "benchmarks", "model_cards", "tests")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def command_lines() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line]


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A working folder that looks like a clone after the quickstart."""
    from vqtok import AutoVQTokenizer

    (tmp_path / "vqtok").symlink_to(REPOSITORY / "vqtok", target_is_directory=True)
    tok = AutoVQTokenizer.from_pretrained("vqtok/vim-vq-tiny")
    tok.tokenize_dataset(REPOSITORY / "vqtok" / "samples", tmp_path / "quickstart" / "codes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_python_block_runs_in_the_order_of_the_page(clone, capsys):
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)

    assert (clone / "chelsea.png").is_file()
    assert names["photos"][0].size == (451, 300)
    assert names["decoded"].shape == (2, 3, 104, 136)
    assert len(names["dataset"]) == 7


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_the_two_commands_of_the_readme_are_scripts(script):
    path = REPOSITORY / "scripts" / script

    assert f"bash scripts/{script}" in command_lines()
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")


def test_every_vqtok_command_of_the_readme_exists_with_its_options():
    import typer

    from vqtok.cli import app

    commands = typer.main.get_command(app).commands
    used = [shlex.split(line)[1:] for line in command_lines() if line.startswith("vqtok ")]

    assert used
    for name, *words in used:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, name


def test_every_training_command_of_the_readme_is_a_valid_recipe():
    from vqtok.training.recipe import load_recipe

    used = [shlex.split(line)[2:] for line in command_lines() if line.startswith("vqtok train ")]

    assert used
    for recipe, *overrides in used:
        load_recipe(REPOSITORY / recipe, overrides)


def test_every_path_in_a_command_of_the_readme_exists():
    words = [word for line in command_lines() for word in shlex.split(line)]
    paths = [word for word in words if word.split("/")[0] in FOLDERS]
    bundled = {path.name for path in (REPOSITORY / "vqtok" / "pretrained").iterdir()}
    files = [path for path in paths if path.removeprefix("vqtok/") not in bundled]

    assert files
    assert [path for path in files if not (REPOSITORY / path).exists()] == []


def test_the_file_map_says_what_the_files_say():
    map_of = runpy.run_path(str(REPOSITORY / "scripts" / "file_map.py"))["file_map"]
    written = README.split("## File map\n\n```text\n", 1)[1].split("```\n", 1)[0]

    assert written == map_of(), "run: python scripts/file_map.py"


def test_every_line_of_the_file_map_has_a_clause():
    written = README.split("## File map\n\n```text\n", 1)[1].split("```\n", 1)[0]

    assert [line for line in written.splitlines() if len(line.split()) < 2] == []


def test_the_readme_has_no_placeholder_left():
    assert "lead fills" not in README
