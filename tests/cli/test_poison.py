"""The bad inputs of the field, through the whole command with real readers: a row each, no more."""

import io
import json

import numpy as np
import pytest
import soundfile
import transformers
from PIL import Image, TiffImagePlugin
from typer.testing import CliRunner

from tests.data.conftest import huge_png, png
from tests.data.rows import rows_of
from tests.models.adapters import natives
from tests.models.text_vq.small import CODE, ENGLISH, started
from vqtok import VimVQConfig, VimVQModel
from vqtok.cli import app


def run(*arguments) -> dict:
    result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json")])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def saved(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def zero_denominator() -> bytes:
    """A JPEG whose EXIF has an orientation and a resolution of 1/0."""
    exif = Image.Exif()
    exif[274], exif[282] = 6, TiffImagePlugin.IFDRational(1, 0)
    return saved(Image.radial_gradient("L"), "JPEG", exif=exif)


def images() -> dict[str, tuple[bytes, str]]:
    grey = Image.radial_gradient("L").resize((40, 24))
    palette = grey.convert("P")
    palette.info["transparency"] = bytes(range(256))
    deep = Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 60)
    return {
        "00_good.png": (png(0), "ok"),
        "01_truncated.jpg": (saved(grey, "JPEG")[:-200], "decode_error"),
        "02_empty.jpg": (b"", "empty"),
        "03_huge.png": (huge_png(), "too_large"),
        "04_cmyk.jpg": (saved(Image.merge("CMYK", [grey] * 4), "JPEG"), "ok"),
        "05_sixteen_bits.png": (saved(deep, "PNG"), "ok"),
        "06_palette_alpha.png": (saved(palette, "PNG"), "ok"),
        "07_exif.jpg": (zero_denominator(), "ok"),
        "08_text.jpg": (b"I am text, renamed\n" * 20, "decode_error"),
        "09_one_pixel.png": (saved(Image.new("RGB", (1, 1)), "PNG"), "ok"),
        "10_good.png": (png(1), "ok"),
    }


def wave(samples, rate=24_000, form="WAV", **options) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.asarray(samples, np.float32), rate, format=form, **options)
    return out.getvalue()


def sounds() -> dict[str, tuple[bytes, str]]:
    noise = np.random.default_rng(0).standard_normal(6000) * 0.1
    return {
        "00_good.wav": (wave(noise), "ok"),
        "01_no_samples.wav": (wave(np.zeros(0)), "empty"),
        "02_nan.wav": (wave([0, np.nan, 0], subtype="FLOAT"), "nonfinite"),
        "03_truncated.flac": (wave(noise, form="FLAC")[:60], "decode_error"),
        "04_eight_channels.wav": (wave(np.zeros((100, 8))), "decode_error"),
        "05_odd_rate.wav": (wave(noise, rate=7999), "ok"),
        "06_one_sample.wav": (wave([0.5]), "ok"),
        "07_empty.mp3": (b"", "empty"),
        "08_text.mp3": (b"no sound at all\n" * 30, "decode_error"),
        "09_good.wav": (wave(noise[::-1]), "ok"),
        # nothing in it says where it should have ended: the part that is there is a sound
        "10_truncated.mp3": (wave(noise, form="MP3")[:-300], "ok"),
        "11_header_only.mp3": (wave(noise, form="MP3")[:40], "decode_error"),
        "12_infinite.wav": (wave([0, np.inf], subtype="FLOAT"), "nonfinite"),
    }


def texts() -> dict[str, tuple[bytes, str]]:
    return {
        "00_good.txt": (ENGLISH.encode(), "ok"),
        "01_invalid.txt": (b"caf\xe9 in Latin-1", "decode_error"),
        "02_cut.txt": ("café".encode()[:-1], "decode_error"),
        "03_surrogate.txt": (b"half of a pair \xed\xa0\x80", "decode_error"),
        "04_empty.txt": (b"", "ok"),
        "05_zeros.txt": (b"\0" * 9, "ok"),
        "06_image.txt": (png(0), "decode_error"),
        "07_utf16.txt": ("two bytes each".encode("utf-16"), "decode_error"),
        "08_good.txt": (CODE.encode(), "ok"),
    }


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    VimVQModel(VimVQConfig.preset("nano", encoder_depth=1, decoder_depth=1)).save_pretrained(
        root / "image"
    )
    extractor = transformers.EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000)
    natives.save(natives.encodec(), root / "audio", extractor)
    started().save_pretrained(root / "text")
    return root


@pytest.mark.parametrize(
    ("modality", "inputs"), [("image", images()), ("audio", sounds()), ("text", texts())]
)
def test_a_bad_input_is_a_row_that_says_why_and_costs_no_other(
    tokenizers, tmp_path, modality, inputs
):
    for folder in ("all", "good"):
        (tmp_path / folder).mkdir()
    for name, (data, status) in inputs.items():
        (tmp_path / "all" / name).write_bytes(data)
        if status == "ok":
            (tmp_path / "good" / name).write_bytes(data)

    tokenizer = ("--tokenizer", tokenizers / modality)
    for folder in ("all", "good"):
        run("tokenize", tmp_path / folder, *tokenizer, "--out", tmp_path / f"{folder}-codes")
    verified = run("verify", tmp_path / "all-codes")

    rows = {row["src"]: row for row in rows_of(tmp_path / "all-codes")}
    assert {name: row["status"] for name, row in rows.items()} == {
        name: status for name, (_, status) in inputs.items()
    }
    for row in rows_of(tmp_path / "good-codes"):
        assert row["codes"] == rows[row["src"]]["codes"]
    assert verified["verified"]
