"""Unique IDs from codes that may collide: a last digit counts within each group of equal codes.

Source: Rajput et al. 2023 (TIGER), arXiv 2305.05065, section 3.1. N items, Q codebooks; IDs
[N, Q + 1] int64, the digit last.
"""

import torch
from torch import Tensor

from vqtok.errors import InputError, ShapeError


def with_digits(codes: Tensor, taken: Tensor | None = None) -> Tensor:
    """Codes [N, Q] to IDs [N, Q + 1], each different from all others and from those `taken`.

    The first item with its codes gets 0, the next one 1, in the order of the items; beside taken
    IDs a group goes on after its largest digit. So an ID depends on earlier items only.

    Args:
        codes: [N, Q] int64.
        taken: [T, Q + 1] int64, IDs that other items have; None: none.

    Raises:
        ShapeError: `taken` are no such IDs.
        InputError: an ID is taken twice, or a digit is negative.
    """
    taken = codes.new_empty(0, codes.shape[1] + 1) if taken is None else _checked(taken, codes)
    everything = torch.cat([taken[:, :-1], codes])
    groups = torch.unique(everything, dim=0, return_inverse=True)[1]
    taken_groups, groups = groups.split([taken.shape[0], codes.shape[0]])
    next_digit = torch.zeros(everything.shape[0], dtype=torch.int64)
    next_digit.scatter_reduce_(0, taken_groups, taken[:, -1] + 1, "amax")
    digits = next_digit[groups] + _place_in_group(groups)
    return torch.cat([codes, digits[:, None]], 1)


def _place_in_group(groups: Tensor) -> Tensor:
    """How many earlier items are in the same group: [N] int64."""
    order = groups.argsort(stable=True)
    counts = torch.bincount(groups)
    starts = counts.cumsum(0) - counts
    places = torch.empty_like(groups)
    places[order] = torch.arange(groups.shape[0]) - starts[groups[order]]
    return places


def _checked(taken: Tensor, codes: Tensor) -> Tensor:
    columns = codes.shape[1] + 1
    fits = isinstance(taken, Tensor) and taken.ndim == 2 and taken.shape[1] == columns
    if not fits or taken.dtype != torch.int64:
        raise ShapeError(
            f"taken must be an int64 tensor [T, {columns}], as unique_ids gave it; got "
            f"{list(getattr(taken, 'shape', []))} {getattr(taken, 'dtype', type(taken).__name__)}."
        )
    taken = taken.cpu()
    if taken.numel() and (taken[:, -1] < 0).any():
        raise InputError("the last digit of a taken ID counts from 0; some are negative.")
    if taken.shape[0] and torch.unique(taken, dim=0).shape[0] < taken.shape[0]:
        raise InputError("taken holds the same ID twice: pass the IDs of different items.")
    return taken
