"""Rate and distortion of an image tokenizer, with JPEG and WebP at equal bytes.

Distortion is measured between the image that went in (upright, RGB, uint8) and the one that came
back, at the image's own size, so it includes everything the codes do to it.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqtok.data.meters import Beside, EvaluationReport, Meter, mean
from vqtok.metrics.classical_image import CODECS, decode, encode_within
from vqtok.metrics.image import MIN_SSIM_SIDE, capped_psnr, centre_square, mse, ssim

NOTE = "at most the bytes of the codes, all bytes counted; failed: not even its lowest quality fits"


@dataclass(frozen=True, kw_only=True)
class ImageReport(EvaluationReport):
    """Of images.

    Attributes:
        images: how many were measured.
        size: side of the squares that the images were cut to, or None for their own sizes.
        bits_per_pixel: the tokenizer's `code_bits` for every code, over all pixels of the images.
        psnr: dB, mean over images of 10 log10(255^2 / MSE); an image that came back exactly
            counts as 108.13 dB (`vqtok.metrics.image.capped_psnr`).
        psnr_of_mean_error: dB, of the mean over images of the MSE.
        ssim: mean over images; None if none of them is large enough.
    """

    modality = "image"
    images: int
    size: int | None
    bits_per_pixel: float
    psnr: float
    psnr_of_mean_error: float
    mse: float
    ssim: float | None

    @property
    def items(self) -> int:
        return self.images


class ImageMeter(Meter):
    """The tokenizer has a `processor` that reads a file to pixels and writes pixels as an image."""

    modality = "image"

    def __init__(self, *options: Any, **named: Any):
        super().__init__(*options, **named)
        self.errors: list[float] = []
        self.ssim: list[float | None] = []
        self.bits = 0.0
        self.pixels = 0
        self.beside = {codec: Beside(codec, NOTE) for codec in CODECS if self.classical}

    def read(self, data: bytes) -> Image.Image:
        processor = self.tokenizer.processor
        tensor, _ = processor.read(data)
        image = processor.write(tensor)
        return image if self.size is None else centre_square(image, self.size)

    def add(self, original: Image.Image, tokens: Any, back: Image.Image) -> None:
        error, similarity = differences(original, back)
        bits = self.count(tokens.codes)
        self.errors.append(error)
        self.ssim.append(similarity)
        self.bits += bits
        self.pixels += original.width * original.height
        ours = values(error, similarity, bits, original)
        for codec, beside in self.beside.items():
            data = encode_within(original, codec, int(bits / 8))
            theirs = None
            if data is not None:
                theirs = values(*differences(original, decode(data)), 8 * len(data), original)
            beside.add(theirs, ours, amount=original.width * original.height)

    def report(self, status: Counter[str]) -> ImageReport:
        errors = torch.tensor(self.errors, dtype=torch.float64)
        return ImageReport(
            images=len(errors),
            size=self.size,
            bits_per_pixel=self.bits / self.pixels,
            psnr=capped_psnr(errors).mean().item(),
            psnr_of_mean_error=capped_psnr(errors.mean()).item(),
            mse=errors.mean().item(),
            ssim=mean(self.ssim),
            **self.common(status, self.beside.values()),
        )


def differences(original: Image.Image, back: Image.Image) -> tuple[float, float | None]:
    """Mean squared error and SSIM, which small images do not have."""
    before, after = pixels(original), pixels(back)
    large = min(original.size) >= MIN_SSIM_SIDE
    return mse(after, before).item(), ssim(after, before).item() if large else None


def values(
    error: float, similarity: float | None, bits: float, image: Image.Image
) -> dict[str, float | None]:
    """The numbers of one image in the table of codecs."""
    return {
        "bits_per_pixel": bits / (image.width * image.height),
        "psnr": capped_psnr(torch.tensor(error)).item(),
        "ssim": similarity,
    }


def pixels(image: Image.Image) -> Tensor:
    """An image as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
