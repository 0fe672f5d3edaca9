"""Distortion of images: PSNR and SSIM, on the uint8 pixels that a viewer would see.

Images are uint8 in 0 to 255, or float in [-1, 1] as models take and give them; floats are first
rounded and clamped to uint8, as saving them would. Shapes: [B, C, H, W] or [C, H, W].
"""

import torch
from PIL import Image
from torch import Tensor

from vqtok.errors import ShapeError

PEAK = 255.0
LOWEST_MSE = 1e-6  # one of a million values off by one grey level
# torchmetrics mirrors the border by half its 11-pixel window, which takes at least 6 pixels
MIN_SSIM_SIDE = 6


def to_uint8(images: Tensor) -> Tensor:
    """uint8 as it is; float in [-1, 1] to the nearest of the 256 values, clamped.

    Raises:
        ShapeError: another dtype, or not [B, C, H, W] or [C, H, W].
    """
    if images.ndim not in (3, 4):
        raise ShapeError(f"images must be [B, C, H, W] or [C, H, W]; got {list(images.shape)}.")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ShapeError(f"images must be uint8 or float in [-1, 1]; got {images.dtype}.")
    return ((images.float() + 1) * (PEAK / 2)).round().clamp(0, PEAK).to(torch.uint8)


def mse(images: Tensor, originals: Tensor) -> Tensor:
    """Mean squared error of the grey levels 0 to 255, one per image: [B] float64."""
    images, originals = _pair(images, originals)
    return (images.double() - originals.double()).square().mean(dim=(1, 2, 3))


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """10 log10(255^2 / MSE) in dB, one per image: [B] float64; equal images give inf.

    The mean of these over a data set and the PSNR of the mean error (`psnr_of_mse`) are two
    numbers: the first is the larger one.
    """
    return psnr_of_mse(mse(images, originals))


def psnr_of_mse(error: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors, any shape."""
    return 10 * torch.log10(PEAK**2 / error.double())


def capped_psnr(error: Tensor) -> Tensor:
    """`psnr_of_mse`, but equal images count as 108.13 dB: for means, which infinity would eat."""
    return psnr_of_mse(error.double().clamp(min=LOWEST_MSE))


def ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity, one per image: [B] float64, at most 1.

    torchmetrics' form: Gaussian window of 11 pixels, sigma 1.5, mean over channels.

    Raises:
        ShapeError: an image with a side under 6 pixels, which the window does not fit on.

    Source: Wang et al. 2004, "Image quality assessment".
    """
    images, originals = _pair(images, originals)
    if min(images.shape[-2:]) < MIN_SSIM_SIDE:
        raise ShapeError(
            f"SSIM takes images of at least {MIN_SSIM_SIDE} pixels a side; "
            f"got {list(images.shape[-2:])}."
        )
    # torchmetrics is slow to import
    from torchmetrics.functional.image import structural_similarity_index_measure

    # variances as differences of squares: in float32 a flat image comes out below 1
    return structural_similarity_index_measure(
        images.double(), originals.double(), data_range=PEAK, reduction="none"
    ).reshape(-1)


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """The largest square in the middle, resized (bicubic) to `size` pixels a side."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BICUBIC)


def _pair(images: Tensor, originals: Tensor) -> tuple[Tensor, Tensor]:
    if images.shape != originals.shape:
        raise ShapeError(
            "images and originals must have one shape; "
            f"got {list(images.shape)} and {list(originals.shape)}."
        )
    images, originals = to_uint8(images), to_uint8(originals)
    return (images, originals) if images.ndim == 4 else (images[None], originals[None])
