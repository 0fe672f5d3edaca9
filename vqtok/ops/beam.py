"""Residual codes by beam search: several partial codes per vector are kept, level by level.

N vectors, Q codebooks of K codes, D their width, b partial codes (the beam).

Greedy residual coding takes the nearest code of each level; a slightly worse first code often
leaves an easier rest. Source: Babenko and Lempitsky 2014 (additive quantization), section 3.2; with
tables of inner products as in faiss's `use_beam_LUT`.
Measured on 20,000 vectors, 8 codebooks of 256, b = 5, one thread, seconds of processor time: width
768 1.36 here, 4.56 in faiss's ResidualQuantizer, 0.97 there with `use_beam_LUT`. Below a width of
128, where choosing the best b costs more than the products, faiss is as fast or up to 1.25 times.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtok.devices import autocast_off, exact_numerics
from vqtok.errors import ConfigError
from vqtok.ops.nearest import check_pair, move_origin, row_blocks, working_dtype
from vqtok.ops.residual import residual_codes

BLOCK_BYTES = 16 * 2**20  # of scratch: blocks that stay near the cache are faster
MAX_TABLE_BYTES = 256 * 2**20


def beam_codes(latents: Tensor, codebooks: Tensor, beam_size: int) -> Tensor:
    """Residual codes of which the sum is nearest to the latents, among those that a beam keeps.

    Args:
        latents: [N, D], any float dtype; N may be 0.
        codebooks: [Q, K, D], any float dtype, same device.
        beam_size: b, partial codes kept per vector after each level; 1 is `residual_codes`.

    Returns:
        [N, Q] int64 in [0, K), without a gradient. Unlike those of `residual_codes`, the first q
        columns are not the best answer of the first q codebooks.

    Raises:
        ShapeError: as `residual_codes`.
        ConfigError: beam_size is below 1.

    Arithmetic is float32 (float64 if either argument is). Near ties may fall either way in the
    company of other rows, as with `nearest_code`.
    """
    check_pair("beam_codes", latents, codebooks, "[Q, K, D]")
    if beam_size < 1:
        raise ConfigError(f"beam_size must be 1 (greedy) or more; got {beam_size}.")
    if beam_size == 1:
        return residual_codes(latents, codebooks)
    latents = latents.detach()
    books = codebooks.detach().to(working_dtype(latents, codebooks), copy=True)
    # only the first level holds what all vectors have in common
    center, books[0] = move_origin(books[0])
    num_levels, num_codes, width = books.shape
    floats_a_row = num_levels * num_codes + beam_size * (3 * num_codes + 2 * width)
    with torch.no_grad(), exact_numerics(), autocast_off(latents.device):
        tables = _tables(books) if _tables_pay(latents, books, beam_size) else None
        found = [
            _search(block.to(books.dtype) - center, books, tables, beam_size)
            for block in row_blocks(latents, floats_a_row * books.element_size(), BLOCK_BYTES)
        ]
    return torch.cat(found)


def _search(rows: Tensor, books: Tensor, tables: list[Tensor] | None, beam_size: int) -> Tensor:
    """Rows [n, D] to codes [n, Q]. A cost is the squared error less the squared length."""
    num_codes = books.shape[1]
    norms = books.square().sum(-1)  # [Q, K]
    alone = torch.addmm(norms[0], rows, books[0].T, alpha=-2)  # [n, K]
    cost, code = alone.topk(min(beam_size, num_codes), largest=False)
    codes = code[..., None]  # [n, b, levels so far]
    for level in range(1, books.shape[0]):
        if tables is None:
            more = _from_residuals(rows, codes, books, norms[level])
        else:
            alone = torch.addmm(norms[level], rows, books[level].T, alpha=-2)
            more = _from_tables(alone, codes, tables[level])
        total = more.add_(cost[..., None]).flatten(1)  # [n, b K]
        cost, pick = total.topk(min(beam_size, total.shape[1]), largest=False)
        parents = (pick // num_codes)[..., None].expand(-1, -1, level)
        codes = torch.cat([codes.gather(1, parents), (pick % num_codes)[..., None]], -1)
    return codes[:, 0]


def _from_residuals(rows: Tensor, codes: Tensor, books: Tensor, norms: Tensor) -> Tensor:
    """What each code of the next level would add to each cost, [n, b, K], the plain way."""
    level = codes.shape[-1]
    residuals = rows[:, None].expand(-1, codes.shape[1], -1)
    for earlier in range(level):
        residuals = residuals - books[earlier][codes[..., earlier]]
    scores = torch.addmm(norms, residuals.flatten(0, 1), books[level].T, alpha=-2)
    return scores.unflatten(0, codes.shape[:2])


def _from_tables(alone: Tensor, codes: Tensor, table: Tensor) -> Tensor:
    """The same from what a code costs alone [n, K] and beside each earlier code [level K, K]."""
    level, num_codes = codes.shape[-1], alone.shape[-1]
    index = codes + torch.arange(level, device=codes.device) * num_codes
    beside = F.embedding_bag(index.flatten(0, 1), table, mode="sum")
    return beside.unflatten(0, codes.shape[:2]).add_(alone[:, None])


def _tables(books: Tensor) -> list[Tensor]:
    """For each level, twice the inner products of the earlier levels' codes with its own."""
    return [2 * books[:level].flatten(0, 1) @ books[level].T for level in range(books.shape[0])]


def _tables_pay(latents: Tensor, books: Tensor, beam_size: int) -> bool:
    """Whether the tables fit into memory and cost less than the products that they save."""
    num_levels, num_codes, _ = books.shape
    entries = num_codes**2 * num_levels * (num_levels - 1) // 2
    saved = latents.shape[0] * num_codes * (num_levels - 1) * (beam_size - 1)
    return saved > entries and entries * books.element_size() <= MAX_TABLE_BYTES
