"""`vqtok tokenize --numerics`: what it prints, and how it refuses."""

import json
import re

import pytest

import vqtok.cli.datasets
from tests.data.conftest import png
from tests.models.test_vim_vq import trained


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of images, and a tokenizer that has profiles behind every name."""
    folder, model = tmp_path / "images", trained()
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(png(number, 64, 64))
    monkeypatch.setattr(vqtok.cli.datasets, "load_tokenizer", lambda name, device="auto": model)
    return folder


def test_a_run_in_bf16_says_what_it_costs_and_so_does_its_report(vqtok_command, images, tmp_path):
    out = tmp_path / "codes"
    command = ("tokenize", images, "-t", "any", "-o", out, "--workers", 1)

    made = vqtok_command(*command, "--numerics", "bf16", "--max-flip-rate", "0.3")
    told = vqtok_command("report", out)

    assert made.exit_code == told.exit_code == 0
    line = r"bf16, [0-9.]+% of the codes differ from exact, encoding is [0-9.]+ times as fast"
    assert re.search(rf"numerics: {line} .5 inputs measured.", made.stdout)
    assert re.search("INFO numerics: bf16", made.stderr)
    assert "bf16" in told.stdout
    assert json.loads((out / "vqtok.json").read_text())["numerics"]["max_flip_rate"] == 0.3


def test_a_refusal_is_one_line_and_exit_code_1(vqtok_command, photos, tmp_path):
    command = ("tokenize", photos, "-t", "fake/mean-colour", "-o", tmp_path / "codes")

    lone = vqtok_command(*command, "--workers", 1, "--max-flip-rate", "0.01")
    fake = vqtok_command(*command, "--workers", 1, "--numerics", "bf16")

    assert (lone.exit_code, fake.exit_code) == (1, 1)
    assert "error: max_flip_rate is of numerics 'bf16'" in lone.stderr
    assert "error: numerics 'bf16' wants a tokenizer with a method `with_numerics`" in fake.stderr
    assert not (tmp_path / "codes").exists()
