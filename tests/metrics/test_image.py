"""PSNR and SSIM against scikit-image and against their definitions."""

import math

import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vqtok.errors import ShapeError
from vqtok.metrics.image import (
    capped_psnr,
    centre_square,
    mse,
    psnr,
    psnr_of_mse,
    ssim,
    to_uint8,
)


@pytest.fixture
def pair():
    originals = torch.randint(0, 256, (3, 3, 40, 33), dtype=torch.uint8)
    noise = torch.randn(originals.shape) * torch.tensor([2.0, 10.0, 60.0])[:, None, None, None]
    return (originals + noise).round().clamp(0, 255).to(torch.uint8), originals


def test_psnr_equals_that_of_scikit_image(pair):
    images, originals = pair

    values = psnr(images, originals)

    for value, image, original in zip(values, images, originals, strict=True):
        expected = peak_signal_noise_ratio(original.numpy(), image.numpy(), data_range=255)
        assert value.item() == pytest.approx(expected)


def test_ssim_equals_that_of_scikit_image_inside_the_border(pair):
    images, originals = pair

    values = ssim(images, originals)

    for value, image, original in zip(values, images, originals, strict=True):
        expected = structural_similarity(
            *(original.numpy(), image.numpy()),
            data_range=255,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert value.item() == pytest.approx(expected, abs=5e-3)


def test_floats_are_measured_as_the_uint8_that_they_would_be_saved_as(pair):
    images, originals = pair
    floats = images / 127.5 - 1

    assert torch.equal(to_uint8(floats), images)
    assert torch.equal(mse(floats + 0.001, originals), mse(images, originals))
    assert torch.equal(to_uint8(torch.tensor([[[-3.0, 7.0]]])), torch.tensor([[[0, 255]]]).byte())


def test_one_image_needs_no_batch_axis(pair):
    images, originals = pair

    assert torch.equal(psnr(images[0], originals[0]), psnr(images, originals)[:1])


def test_equal_images_are_perfect(pair):
    _, originals = pair

    assert psnr(originals, originals).tolist() == [math.inf] * 3
    assert ssim(originals, originals).tolist() == pytest.approx([1.0] * 3)


def test_a_known_error_has_its_known_psnr():
    assert psnr_of_mse(torch.tensor(255.0**2)).item() == pytest.approx(0)
    assert psnr_of_mse(torch.tensor(1.0)).item() == pytest.approx(48.1308, abs=1e-4)


def test_only_a_perfect_image_is_capped():
    errors = torch.tensor([0.0, 1e-5, 1.0, 255.0**2])

    values = capped_psnr(errors)

    assert values[0].item() == pytest.approx(108.1308, abs=1e-4)
    assert torch.equal(values[1:], psnr_of_mse(errors[1:]))


@pytest.mark.parametrize(("width", "height", "left", "top"), [(9, 4, 2, 0), (4, 9, 0, 2)])
def test_the_centre_square_is_the_middle_and_at_its_own_size_untouched(width, height, left, top):
    image = Image.radial_gradient("L").resize((width, height)).convert("RGB")

    square = centre_square(image, 4)

    assert square.tobytes() == image.crop((left, top, left + 4, top + 4)).tobytes()


@pytest.mark.parametrize(
    ("images", "originals"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9)),
        (torch.zeros(3, 8, 8).long(), torch.zeros(3, 8, 8).long()),
        (torch.zeros(8, 8), torch.zeros(8, 8)),
    ],
)
def test_images_of_another_form_are_refused(images, originals):
    with pytest.raises(ShapeError):
        psnr(images, originals)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ShapeError, match="at least 6 pixels"):
        ssim(torch.zeros(3, 5, 9), torch.zeros(3, 5, 9))
