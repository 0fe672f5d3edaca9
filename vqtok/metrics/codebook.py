"""Codebook health: usage, perplexity and entropy, from counts of codes.

Counts of many batches add up, so the numbers do not depend on how the data was cut into batches;
an average of per-batch perplexities does (bshall/VectorQuantizedVAE #3). They do depend on how
many codes were counted: with fewer codes than a few times K, usage and entropy read low, which is
why `total` stands beside them.

K codes in a codebook, Q codebooks. Entropy in bits: a prior-free coder spends that much per code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqtok.errors import CodeRangeError, ConfigError, ShapeError


@dataclass(frozen=True)
class CodebookStats:
    """How a codebook is used.

    Attributes:
        codebook_size: K.
        total: codes counted.
        usage: share of the K codes that occur at all, 0 to 1.
        perplexity: 2 ** entropy, the size of an evenly used codebook as rich as this one.
        entropy_bits: of the code distribution, 0 to log2(K).
        normalized_entropy: entropy / log2(K); 1 means every code equally often.
    """

    codebook_size: int
    total: int
    usage: float
    perplexity: float
    entropy_bits: float
    normalized_entropy: float


def code_counts(codes: Tensor, codebook_size: int, mask: Tensor | None = None) -> Tensor:
    """How often each code occurs: codes [...] int64, mask [...] bool, to int64 [K].

    Raises:
        CodeRangeError: a code is not in [0, K).
        ShapeError: codes are not int64, or the mask does not fit.
    """
    if codes.dtype != torch.int64:
        raise ShapeError(f"codes must be int64; got {codes.dtype}: call .long() first.")
    if mask is not None:
        if mask.shape != codes.shape or mask.dtype != torch.bool:
            raise ShapeError(
                f"the mask of codes {list(codes.shape)} must be bool of the same shape; "
                f"got {list(mask.shape)} {mask.dtype}."
            )
        codes = codes[mask]
    codes = codes.flatten()
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < codebook_size:
        raise CodeRangeError(
            f"codes must lie in 0 to {codebook_size - 1}; got {int(codes.min())} to "
            f"{int(codes.max())}. Were they made by another tokenizer?"
        )
    return torch.bincount(codes, minlength=codebook_size)


def codebook_stats(counts: Tensor) -> CodebookStats:
    """Counts [K], int or float and from any number of batches, to statistics (in float64)."""
    if counts.ndim != 1 or counts.shape[0] < 2:
        raise ShapeError(f"counts must be [K] with K >= 2; got {list(counts.shape)}.")
    counts = counts.detach().cpu().double()
    if not bool((counts >= 0).all()):
        raise ConfigError("counts must be 0 or more; some are negative or not a number.")
    size, total = counts.shape[0], float(counts.sum())
    shares = counts / total if total else counts
    entropy = float(-torch.xlogy(shares, shares).sum()) / math.log(2)
    entropy = max(0.0, entropy)  # rounding may give -0.0
    return CodebookStats(
        codebook_size=size,
        total=round(total),
        usage=float((counts > 0).sum()) / size,
        perplexity=2**entropy if total else 0.0,
        entropy_bits=entropy,
        normalized_entropy=entropy / math.log2(size),
    )


def level_stats(
    codes: Tensor, codebook_sizes: Sequence[int], mask: Tensor | None = None
) -> list[CodebookStats]:
    """One entry per codebook: codes [..., Q] int64, mask [...] bool for whole positions."""
    if codes.shape[-1] != len(codebook_sizes):
        raise ShapeError(
            f"codes [..., Q] and {len(codebook_sizes)} codebook sizes do not fit; "
            f"got {list(codes.shape)}."
        )
    return [
        codebook_stats(code_counts(codes[..., level], size, mask))
        for level, size in enumerate(codebook_sizes)
    ]


def region_stats(counts: Tensor, num_slices: int) -> list[CodebookStats]:
    """One entry per slice of a codebook that is cut into equal slices, as spatial codebooks are.

    `counts` [K] of the whole codebook; slice s owns codes s * K / num_slices and up.
    """
    if num_slices < 1 or counts.ndim != 1 or counts.shape[0] % num_slices:
        raise ShapeError(
            f"counts [K] must divide into {num_slices} equal slices; got {list(counts.shape)}."
        )
    return [codebook_stats(part) for part in counts.view(num_slices, -1)]
