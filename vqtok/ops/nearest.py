"""Nearest code: for every latent vector, the codebook row at the least Euclidean distance.

The op "vqtok::nearest_code", its checks and its reference; one kernel a file beside this one
(`nearest_cpu.py`). N vectors, K codes, D their width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vqtok.devices import autocast_off, exact_numerics
from vqtok.errors import ShapeError

MAX_BLOCK_BYTES = 64 * 2**20  # no N x K matrix, nor any other scratch, is larger


def nearest_code(latents: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest codebook row for every latent.

    Args:
        latents: [N, D], any float dtype; N may be 0.
        codebook: [K, D], any float dtype, same device; K >= 1.

    Returns:
        [N] int64 in [0, K), without a gradient.

    Raises:
        ShapeError: other numbers of axes, widths that differ, no codes, dtypes that are not
            float, or two devices.

    Arithmetic is float32 whatever comes in (float64 if either argument is), outside autocast and
    without TF32. Equal distances give the lowest index in the reference. Two codes whose
    distances differ by float32 rounding are a near tie: it may fall to either of them on another
    device, with another number of threads or in the company of other rows, because the shape of
    a matrix product decides the order of its sums. A row with a NaN gets some code in [0, K).
    """
    check_pair("nearest_code", latents, codebook)
    return nearest_code_op(latents.detach(), codebook.detach())


def nearest_code_reference(
    latents: Tensor, codebook: Tensor, block_bytes: int = MAX_BLOCK_BYTES
) -> Tensor:
    """The plain form, in row blocks: what every kernel is compared with."""
    center, codes = move_origin(codebook.to(working_dtype(latents, codebook)))
    bias = codes.square().sum(1)  # |x|^2 is the same for every code: it cannot change the winner
    chosen = []
    with exact_numerics(), autocast_off(latents.device):
        for block in row_blocks(latents, codes.shape[0] * codes.element_size(), block_bytes):
            scores = torch.addmm(bias, block.to(codes.dtype) - center, codes.T, alpha=-2)
            chosen.append(scores.argmin(1))
    return torch.cat(chosen)


@torch.library.custom_op("vqtok::nearest_code", mutates_args=())
def nearest_code_op(latents: Tensor, codebook: Tensor) -> Tensor:
    return nearest_code_reference(latents, codebook)


@nearest_code_op.register_fake
def _(latents: Tensor, codebook: Tensor) -> Tensor:
    return latents.new_empty(latents.shape[0], dtype=torch.int64)


# What the kernels share


def working_dtype(latents: Tensor, codebook: Tensor) -> torch.dtype:
    """float64 if either is float64, else float32."""
    doubled = torch.float64 in (latents.dtype, codebook.dtype)
    return torch.float64 if doubled else torch.float32


def move_origin(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """An origin near the codes: (center [D], codebook - center [K, D]).

    |c|^2 - 2 x.c loses the digits that tell codes apart when all of them lie far from the origin
    (embeddings often do). A channel whose mean is at most 4 standard deviations keeps its origin,
    and a center has the 8 bits of a bfloat16, so that values with few digits stay exact and true
    ties stay ties.
    """
    mean, second = codebook.mean(0), codebook.square().mean(0)
    # mean > 4 * spread, with spread^2 = second - mean^2, written without the difference
    far = 17 * mean.square() > 16 * second
    center = mean.bfloat16().to(mean.dtype).where(far, 0.0)
    return center, codebook - center


def row_blocks(
    latents: Tensor, bytes_a_row: int, block_bytes: int = MAX_BLOCK_BYTES
) -> Iterator[Tensor]:
    """Consecutive rows whose scratch stays within block_bytes; one empty block if N = 0."""
    rows = max(1, block_bytes // bytes_a_row)
    for start in range(0, max(1, latents.shape[0]), rows):
        yield latents[start : start + rows]


def check_pair(op: str, latents: Tensor, codebook: Tensor, codebook_axes: str = "[K, D]") -> None:
    """Refuse latents and codebooks that do not fit each other."""
    fits = (
        latents.ndim == 2
        and codebook.ndim == codebook_axes.count(",") + 1
        and latents.shape[1] == codebook.shape[-1]
        and min(codebook.shape) >= 1
    )
    if not fits:
        raise ShapeError(
            f"{op} wants latents [N, D] and codebook {codebook_axes} with the same D, and "
            f"every axis of the codebook at least 1 long; "
            f"got {list(latents.shape)} and {list(codebook.shape)}."
        )
    if not (latents.is_floating_point() and codebook.is_floating_point()):
        raise ShapeError(
            f"{op} wants float latents and codebook; got {latents.dtype} and {codebook.dtype}: "
            "convert them first."
        )
    if latents.device != codebook.device:
        raise ShapeError(
            f"{op} wants both on one device; latents are on {latents.device}, the codebook on "
            f"{codebook.device}: move one with .to(device)."
        )
