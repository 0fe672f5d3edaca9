"""Rate, distortion and codebook health, against numbers computed another way."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from tests.data.fake import TwoLevels
from vqtok.data import evaluate_dataset
from vqtok.errors import ConfigError, InputError


def reconstruct(tokenizer, image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return tokenizer.detokenize(tokenizer.tokenize([data.getvalue()]))[0]


def error(a, b):
    return np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)


@pytest.fixture
def noise(tmp_path):
    """Three noise images of odd sizes; the mean colour of a patch keeps little of them."""
    rng = np.random.default_rng(0)
    images = []
    (tmp_path / "noise").mkdir()
    for index, (height, width) in enumerate([(32, 40), (33, 17), (64, 64)]):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels = np.uint8(pixels * (0.3 + 0.3 * index))
        images.append(Image.fromarray(pixels))
        images[-1].save(tmp_path / "noise" / f"{index}.png")
    return tmp_path / "noise", images


@pytest.mark.parametrize("batch_size", [None, 2])
def test_psnr_is_that_of_the_uint8_pixels(noise, tokenizer, batch_size):
    folder, images = noise

    report = evaluate_dataset(tokenizer, folder, batch_size=batch_size)

    errors = [error(image, reconstruct(tokenizer, image)) for image in images]
    assert report.images == 3
    assert report.psnr == pytest.approx(np.mean([10 * math.log10(255**2 / e) for e in errors]))
    assert report.psnr_of_mean_error == pytest.approx(10 * math.log10(255**2 / np.mean(errors)))
    assert report.mse == pytest.approx(np.mean(errors))
    assert report.ssim < 0.9


def test_the_rate_counts_every_code_over_every_pixel(noise, tokenizer):
    folder, images = noise

    report = evaluate_dataset(tokenizer, folder)

    codes = sum(math.ceil(i.width / 8) * math.ceil(i.height / 8) for i in images)
    pixels = sum(i.width * i.height for i in images)
    assert report.bits_per_pixel == pytest.approx(12 * codes / pixels)
    assert report.codebooks[0]["total"] == codes


def test_size_takes_the_centre_square_and_resizes_it(noise, tokenizer):
    folder, images = noise

    report = evaluate_dataset(tokenizer, folder, size=24)

    errors = []
    for image in images:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((24, 24), Image.BICUBIC)
        errors.append(error(square, reconstruct(tokenizer, square)))
    assert report.mse == pytest.approx(np.mean(errors))
    assert report.bits_per_pixel == pytest.approx(12 / 64)


def test_fewer_codebooks_cost_less(noise):
    folder, _ = noise

    both = evaluate_dataset(TwoLevels(), folder)
    one = evaluate_dataset(TwoLevels(), folder, num_codebooks=1)

    assert len(one.codebooks) == 1
    assert one.bits_per_pixel / both.bits_per_pixel == pytest.approx(12 / (12 + math.log2(70_000)))


def test_images_that_cannot_be_read_are_counted(mixed, tokenizer):
    report = evaluate_dataset(tokenizer, mixed[0])

    assert (report.images, report.skipped) == (2, 4)
    assert report.status == {"decode_error": 2, "empty": 1, "too_large": 1}


def test_a_perfect_reconstruction_counts_as_108_decibels(tmp_path, tokenizer):
    Image.new("RGB", (16, 16), (17, 34, 255)).save(tmp_path / "flat.png")

    report = evaluate_dataset(tokenizer, tmp_path)

    assert report.psnr == report.psnr_of_mean_error == pytest.approx(108.1308, abs=1e-4)
    assert report.mse == 0
    assert report.ssim == pytest.approx(1)


def test_nothing_to_measure_is_an_error(tmp_path, tokenizer):
    (tmp_path / "x.png").write_bytes(b"text")

    with pytest.raises(InputError, match="none of the 1 images"):
        evaluate_dataset(tokenizer, tmp_path)


@pytest.mark.parametrize("options", [{"size": 0}, {"batch_size": 0}, {"num_codebooks": 2}])
def test_an_option_that_cannot_be_obeyed_is_refused(photos, tokenizer, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        evaluate_dataset(tokenizer, photos, **options)
