"""The bundled tokenizers: what shares a batch or a file with an input does not change its codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from tests.data.rows import rows_of
from vqtok.cli import app


def run(*arguments) -> dict:
    result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json")])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def images(folder: Path, samples: Path) -> None:
    """Pieces of a photo, some of one size."""
    with Image.open(samples / "coffee.jpg") as photo:
        for index, side in enumerate((40, 64, 40, 33, 64, 40, 8)):
            box = (20 * index, 30, 20 * index + side, 30 + 40)
            photo.crop(box).save(folder / f"{index}.png")


def sounds(folder: Path, samples: Path) -> None:
    speech, rate = soundfile.read(samples / "speech.flac")
    for index, length in enumerate((4000, 6100, 4000, 1, 6100, 4000, 2500)):
        piece = speech[20_000 + 1000 * index :][:length]
        soundfile.write(folder / f"{index}.flac", np.asarray(piece), rate)


def texts(folder: Path, samples: Path) -> None:
    whole = (samples / "shakespeare.txt").read_text()
    for index, length in enumerate((100, 40, 100, 1, 333, 40, 100)):
        (folder / f"{index}.txt").write_text(whole[50 * index :][:length])


@pytest.mark.parametrize(
    ("make", "tokenizer"),
    [
        (images, "vqtok/vim-vq-tiny"),
        (sounds, "vqtok/rvq-codec-tiny"),
        (texts, "vqtok/text-vq-tiny"),
    ],
)
def test_a_batch_of_mixed_sizes_has_the_codes_of_each_alone(make, tokenizer, tmp_path):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in", Path(__file__).parents[2] / "vqtok" / "samples")

    for name, rows in (("together", 7), ("alone", 1)):  # inputs of one file are batched together
        run(
            "tokenize", tmp_path / "in", "-t", tokenizer, "-o", tmp_path / name,
            "--unit-rows", rows, "--batch-size", 3,
        )  # fmt: skip

    together, alone = (run("verify", tmp_path / name) for name in ("together", "alone"))
    assert together["rows_digest"] == alone["rows_digest"]
    assert (together["units"], alone["units"], alone["bad"]) == (1, 7, 0)
    assert len({str(row["codes"]) for row in rows_of(tmp_path / "alone")}) > 5  # no empty proof
