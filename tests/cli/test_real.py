"""The command line with a real tokenizer, loaded from a folder."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.data.conftest import png
from vqtok import AutoVQTokenizer, VimVQConfig, VimVQModel
from vqtok.cli import app
from vqtok.data import load_codes


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    VimVQModel(VimVQConfig.preset("nano", encoder_depth=1, decoder_depth=1)).save_pretrained(folder)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def only_line(result) -> dict:
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_codes_on_disk_are_those_of_tokenize_and_decode_to_its_images(tokenizer_folder, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(3):
        (tmp_path / f"photos/{index}.png").write_bytes(png(index, 20 + index, 24))

    run("tokenize", tmp_path / "photos", "-t", tokenizer_folder, "-o", tmp_path / "codes")
    run("decode", tmp_path / "codes", "-o", tmp_path / "back")

    tokenizer = AutoVQTokenizer.from_pretrained(tokenizer_folder, device="cpu")
    tokens = tokenizer.tokenize(sorted((tmp_path / "photos").iterdir()))
    images = tokenizer.detokenize(tokens)
    for row, token, image in zip(load_codes(tmp_path / "codes"), tokens, images, strict=True):
        assert row["codes"] == token.codes.flatten().tolist()
        assert row["shape"] == list(token.codes.shape)
        with Image.open(tmp_path / "back" / row["src"]) as back:
            assert np.array_equal(np.array(back), np.array(image))


def test_evaluate_measures_what_goes_through_the_codes(tokenizer_folder, tmp_path):
    (tmp_path / "a.png").write_bytes(png(0, 24, 24))

    report = only_line(run("evaluate", "-t", tokenizer_folder, "--data", tmp_path, "--json"))

    tokenizer = AutoVQTokenizer.from_pretrained(tokenizer_folder, device="cpu")
    (back,) = tokenizer.detokenize(tokenizer.tokenize([tmp_path / "a.png"]))
    with Image.open(tmp_path / "a.png") as image:
        error = (np.array(image, np.float64) - np.array(back, np.float64)) ** 2
    assert report["mse"] == pytest.approx(error.mean())
    assert report["psnr"] == pytest.approx(10 * np.log10(255**2 / error.mean()))
    assert report["bits_per_pixel"] == pytest.approx(12 / 64)


def test_info_says_what_a_tokenizer_is(tokenizer_folder):
    tokenizer = AutoVQTokenizer.from_pretrained(tokenizer_folder, device="cpu")

    values = only_line(run("info", tokenizer_folder, "--json"))

    assert values["modality"] == "image"
    assert values["codebook_sizes"] == list(tokenizer.codebook_sizes)
    assert values["rate"] == {"bits": tokenizer.rate.bits, "per": tokenizer.rate.per}
    assert values["fingerprint"]["encode"] == tokenizer.fingerprint.encode
    assert values["parameters"] == sum(p.numel() for p in tokenizer.parameters())
    sizes = [path.stat().st_size for path in tokenizer_folder.iterdir()]
    assert values["bytes_on_disk"] == sum(sizes)
    assert values["config"]["width"] == tokenizer.config.width


def test_info_shows_every_digest_whole(tokenizer_folder):
    tokenizer = AutoVQTokenizer.from_pretrained(tokenizer_folder, device="cpu")

    shown = run("info", tokenizer_folder).stdout.replace("\n", "")

    digest = tokenizer.fingerprint.decode
    assert digest[:32] in shown
    assert "…" not in shown


def test_train_is_a_command():
    assert "--resume" in run("train", "--help").stdout
