"""The gatherer of training text, on a small machine of its own."""

import bz2
import gzip
import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_text_data.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("make_text_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(script, tmp_path, monkeypatch):
    """Two kinds of files, one of them held out by name."""
    folder = tmp_path / "machine"
    folder.mkdir()
    (folder / "a.txt").write_text("alpha alpha")
    (folder / "same.txt").write_text("alpha alpha")
    (folder / "kept_apart.txt").write_text("secret")
    (folder / "b.gz").write_bytes(gzip.compress(b"beta"))
    (folder / "c.bz2").write_bytes(bz2.compress(b"gamma"))
    (folder / "broken.gz").write_bytes(b"no gzip")
    (folder / "binary.txt").write_bytes(b"\0\1")
    (folder / "code.py").write_text('"""Says hello."""\nx = 1\ndef f():\n    "Says more."\n')
    kinds = {
        "plain": (1000, [(str(folder), "*.txt"), (str(folder), "*.gz"), (str(folder), "*.bz2")]),
        "docstrings": (1000, [(str(folder), "*.py")]),
    }
    monkeypatch.setattr(script, "KINDS", kinds)
    monkeypatch.setattr(script, "HELD_OUT", {"apart": ("plain", "kept_*.txt")})
    return tmp_path


def gather(script, monkeypatch, out, *options) -> dict[str, str]:
    monkeypatch.setattr("sys.argv", ["make_text_data.py", str(out), *map(str, options)])
    assert script.main() == 0
    return {str(p.relative_to(out)): p.read_text() for p in sorted(out.rglob("*.txt"))}


def test_every_text_is_taken_once_and_nothing_that_is_held_out(script, machine, monkeypatch):
    files = gather(script, monkeypatch, machine / "out")

    train = "".join(text for name, text in files.items() if name.startswith("train"))
    words = ["Says", "Says", "alpha", "alpha", "beta", "gamma", "hello.", "more."]
    assert sorted(train.split()) == words
    assert files["held_out/apart-00.txt"].split() == ["secret"]


def test_the_last_tenth_of_the_prose_is_held_out_and_the_rest_also_typeset(
    script, machine, monkeypatch
):
    (machine / "prose.txt").write_text("it's " * 180 + "x" * 100)

    files = gather(script, monkeypatch, machine / "out", "--prose", machine / "prose.txt")

    assert files["held_out/prose-00.txt"].strip() == "x" * 100
    assert files["train/prose-00.txt"].count("it's") == 2 * 180
    assert files["train/prose-00.txt"].count("it\u2019s") == 180


def test_the_same_machine_gives_the_same_text_up_to_its_share(script, machine, monkeypatch):
    first, again = (gather(script, monkeypatch, machine / name) for name in ("one", "two"))
    monkeypatch.setitem(script.KINDS, "plain", (1, script.KINDS["plain"][1]))
    short = gather(script, monkeypatch, machine / "three")

    assert first == again
    assert len(short["train/plain-00.txt"].split()) < len(first["train/plain-00.txt"].split())


def test_a_folder_that_is_not_empty_is_left_alone(script, machine, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_text_data.py", str(machine)])

    assert script.main() == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_quotes_dashes_and_dots_are_typeset(script):
    assert script.typeset('"No," he said -- it\'s...') == "“No,” he said — it\u2019s…"
    assert script.typeset("First:\nGo!\nNow?\n\nHe goes.\n") == (
        "First:\n“Go!\nNow?”\n\nHe goes.\n"
    )
