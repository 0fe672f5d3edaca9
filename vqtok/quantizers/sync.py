"""What the ranks of a distributed run tell each other about a codebook.

In a single process every function here returns at once. Rows may differ in number between ranks.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if _distributed() else 1


def is_first_rank() -> bool:
    """Whether this process draws the random numbers and runs k-means for all."""
    return not _distributed() or dist.get_rank() == 0


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over the ranks, in one call."""
    if not _distributed():
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def copy_from_first_rank(tensors: Sequence[Tensor]) -> None:
    """Overwrites each tensor with the first rank's."""
    if _distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def gather_rows(rows: Tensor) -> Tensor:
    """[n, D] of every rank, n its own, to [sum n, D] in rank order, the same on all ranks."""
    if not _distributed():
        return rows
    count = torch.tensor([rows.shape[0]], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    sizes = [int(size) for size in counts]

    # all_gather wants equal shapes: pad to the longest, cut afterwards
    padded = rows.new_zeros(max(sizes), rows.shape[1])
    padded[: rows.shape[0]] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
