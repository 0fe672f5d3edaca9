"""Residual codes: a whole stack of codebooks in one op call, greedily.

The op "vqtok::residual_codes", its checks and its reference. N vectors, Q codebooks of K codes,
D their width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vqtok.ops.nearest import check_pair, nearest_code_reference, row_blocks, working_dtype


def residual_codes(latents: Tensor, codebooks: Tensor) -> Tensor:
    """Greedy residual quantization: each stage encodes what the earlier stages left over.

    Args:
        latents: [N, D], any float dtype; N may be 0.
        codebooks: [Q, K, D], any float dtype, same device. Stage 0 is the coarsest.

    Returns:
        [N, Q] int64 in [0, K), without a gradient. Stage q is
        `nearest_code(latents - codes of the stages before, codebooks[q])`, so the first q
        columns are the answer of the first q codebooks.

    Raises:
        ShapeError: other numbers of axes, widths that differ, an empty axis of `codebooks`,
            dtypes that are not float, or two devices.

    Arithmetic and near ties are those of `nearest_code`; a near tie that falls the other way
    changes every later stage of its row.
    Source: Zeghidour et al. 2021 (SoundStream), arXiv 2107.03312, algorithm 1.
    """
    check_pair("residual_codes", latents, codebooks, "[Q, K, D]")
    return residual_codes_op(latents.detach(), codebooks.detach())


def residual_codes_reference(latents: Tensor, codebooks: Tensor) -> Tensor:
    """The plain form: `nearest_code_reference`, stage by stage."""
    return stage_by_stage(latents, codebooks, nearest_code_reference)


def stage_by_stage(
    latents: Tensor, codebooks: Tensor, nearest: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Greedy stages in row blocks, with `nearest` for each stage: what every kernel shares."""
    codebooks = codebooks.to(working_dtype(latents, codebooks))
    bytes_a_row = codebooks.shape[2] * codebooks.element_size()
    done = []
    for block in row_blocks(latents, bytes_a_row):
        residual = block.to(codebooks.dtype)
        codes = []  # Q times [n]
        for stage, codebook in enumerate(codebooks):
            if stage:
                residual = residual - codebooks[stage - 1][codes[-1]]
            codes.append(nearest(residual, codebook))
        done.append(torch.stack(codes, 1))
    return torch.cat(done)


@torch.library.custom_op("vqtok::residual_codes", mutates_args=())
def residual_codes_op(latents: Tensor, codebooks: Tensor) -> Tensor:
    return residual_codes_reference(latents, codebooks)


@residual_codes_op.register_fake
def _(latents: Tensor, codebooks: Tensor) -> Tensor:
    return latents.new_empty((latents.shape[0], codebooks.shape[0]), dtype=torch.int64)
