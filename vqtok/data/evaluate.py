"""Rate, distortion and codebook health of an image tokenizer on a source.

Distortion is measured between the image that went in (upright, RGB, uint8) and the one that came
back, at the image's own size, so it includes everything the codes do to it.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqtok.data.plan import DEFAULT_UNIT_ROWS, build_plan
from vqtok.data.progress import rows_bar
from vqtok.data.sources import RawSample, Source, open_source
from vqtok.errors import ConfigError, InputError
from vqtok.metrics.codebook import code_counts, codebook_stats
from vqtok.metrics.image import MIN_SSIM_SIDE, capped_psnr, centre_square, mse, ssim


@dataclass(frozen=True)
class EvaluationReport:
    """What codes cost and what they keep.

    Attributes:
        images: how many were measured; `skipped` could not be read, `status` says why.
        size: side of the squares that the images were cut to, or None for their own sizes.
        bits_per_pixel: the tokenizer's `code_bits` for every code, over all pixels of the images.
        psnr: dB, mean over images of 10 log10(255^2 / MSE); an image that came back exactly
            counts as 108.13 dB (`vqtok.metrics.image.capped_psnr`).
        psnr_of_mean_error: dB, of the mean over images of the MSE.
        ssim: mean over images; None if none of them is large enough.
        codebooks: one entry per codebook, see `vqtok.metrics.CodebookStats`.
    """

    images: int
    skipped: int
    status: dict[str, int]
    size: int | None
    bits_per_pixel: float
    psnr: float
    psnr_of_mean_error: float
    mse: float
    ssim: float | None
    codebooks: list[dict]

    def to_dict(self) -> dict:
        return asdict(self)


class _Sums:
    """Running sums over images."""

    def __init__(self, codebook_sizes: tuple[int, ...], code_bits: tuple[float, ...]):
        self.sizes, self.code_bits = codebook_sizes, code_bits
        self.counts = [torch.zeros(size, dtype=torch.int64) for size in codebook_sizes]
        self.errors: list[float] = []
        self.ssim: list[float] = []
        self.pixels = 0

    def add(self, original: Image.Image, codes: Tensor, back: Image.Image) -> None:
        before, after = pixels(original), pixels(back)
        self.errors.append(mse(after, before).item())
        if min(original.size) >= MIN_SSIM_SIDE:
            self.ssim.append(ssim(after, before).item())
        self.pixels += original.width * original.height
        for level, plane in enumerate(codes):
            self.counts[level] += code_counts(plane, self.sizes[level])

    def report(self, size: int | None, status: Counter[str]) -> EvaluationReport:
        errors = torch.tensor(self.errors, dtype=torch.float64)
        pairs = zip(self.counts, self.code_bits, strict=True)
        bits = sum(counts.sum().item() * code_bits for counts, code_bits in pairs)
        return EvaluationReport(
            images=len(errors),
            skipped=status.total(),
            status=dict(sorted(status.items())),
            size=size,
            bits_per_pixel=bits / self.pixels,
            psnr=capped_psnr(errors).mean().item(),
            psnr_of_mean_error=capped_psnr(errors.mean()).item(),
            mse=errors.mean().item(),
            ssim=sum(self.ssim) / len(self.ssim) if self.ssim else None,
            codebooks=[asdict(codebook_stats(counts)) for counts in self.counts],
        )


def evaluate_dataset(
    tokenizer: Any,
    source: str | os.PathLike | Source,
    *,
    size: int | None = None,
    batch_size: int | None = None,
    num_codebooks: int | None = None,
    column: str | None = None,
    progress: bool = False,
) -> EvaluationReport:
    """Encode and decode every image of a source and measure; nothing is written.

    Args:
        tokenizer: an image tokenizer with `tokenize`, `detokenize` and a `processor` that reads
            a file to pixels (`read`) and writes pixels as an image (`write`).
        source: as for `tokenize_dataset`.
        size: cut the centre square and resize it (bicubic) to this side first.
        batch_size: images per forward; default: the tokenizer's own.
        num_codebooks: use only the first so many codebooks; default: all.
        column: column of a table with the images; default: found by name and type.
        progress: show a bar on stderr.

    Raises:
        ConfigError: the tokenizer is not one of images, or an option cannot be obeyed.
        InputError: not a single image could be read.
    """
    if tokenizer.modality != "image":
        raise ConfigError(
            f"evaluate measures image tokenizers; this one takes {tokenizer.modality}."
        )
    if size is not None and size < 1:
        raise ConfigError(f"size must be at least 1 pixel; got {size}.")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
    if num_codebooks is not None and not 1 <= num_codebooks <= tokenizer.num_codebooks:
        raise ConfigError(
            f"num_codebooks must be 1 to {tokenizer.num_codebooks} with this tokenizer; got "
            f"{num_codebooks}."
        )
    opened = open_source(source, "image", column)
    plan = build_plan(opened.list(), DEFAULT_UNIT_ROWS)
    status: Counter[str] = Counter()
    sums = _Sums(
        tuple(tokenizer.codebook_sizes)[:num_codebooks], tuple(tokenizer.code_bits)[:num_codebooks]
    )
    options = {"batch_size": batch_size, "num_codebooks": num_codebooks}
    options = {name: value for name, value in options.items() if value is not None}
    with rows_bar(plan.rows, progress, "evaluate") as on_rows:
        samples = itertools.chain.from_iterable(opened.read(unit.segments) for unit in plan.units)
        images = readable(samples, tokenizer.processor, status, on_rows)
        if size is not None:
            images = (centre_square(image, size) for image in images)
        while chunk := list(itertools.islice(images, batch_size or 1)):
            tokens = tokenizer.tokenize(chunk, **options)
            for image, item, back in zip(chunk, tokens, tokenizer.detokenize(tokens), strict=True):
                sums.add(image, item.codes, back)
    if not sums.errors:
        raise InputError(
            f"none of the {plan.rows} images of {source} could be read: {dict(status)}."
        )
    return sums.report(size, status)


def pixels(image: Image.Image) -> Tensor:
    """An image as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def readable(
    samples: Iterable[RawSample],
    processor: Any,
    status: Counter[str],
    on_rows: Callable[[int], None],
) -> Iterator[Image.Image]:
    """The images that can be read, upright and RGB; the others are counted in `status`."""
    for sample in samples:
        on_rows(1)
        try:
            if problem := sample.problem:
                raise problem
            tensor, _ = processor.read(sample.data)
        except InputError as error:
            status[error.status] += 1
            continue
        yield processor.write(tensor)
