"""Lists of raw items: what counts as one, and how items of one size go together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from vqtok.errors import ConfigError, InputError


def check_items(items: Any, method: str) -> None:
    """Anything with a length and an index is a list, unless it is one item itself.

    Raises:
        InputError: a single item, or nothing that can be indexed.
    """
    single = isinstance(items, (str, bytes, Mapping, np.ndarray, Tensor))
    if single or not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        raise InputError(
            f"{method} wants a list of items; got a {type(items).__name__}. "
            f"For one item: {method}([item])[0]."
        )


# positions (pixels, vectors) that pay to go through an encoder together, on a CPU and elsewhere; a
# CPU gains nothing from company once one input fills it (vim-vq-tiny, one core: 16 images of
# 32 x 32 together are 5 times as fast as alone, at 64 x 64 twice, from 128 x 128 on none)
POSITIONS_TOGETHER = {"image": (1 << 14, 1 << 22), "embedding": (1 << 10, 1 << 10)}
MOST_TOGETHER = {"image": 64, "embedding": 1 << 10}
# a batch that would be copies for the greater part costs more than its few inputs one by one
FEW = 4


@dataclass(frozen=True)
class PreparedItem:
    """A raw item after reading: what `tokenize` makes of it before the encoder.

    Attributes:
        tensor: the input, without batch axis, on the CPU.
        meta: of its tokens.
    """

    tensor: Tensor
    meta: dict[str, Any]

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes


def check_batch_size(batch_size: Any) -> None:
    """Raise ConfigError unless it is a whole number from 1, or None for an automatic one."""
    if batch_size is None:
        return
    if not isinstance(batch_size, int):
        kind = type(batch_size).__name__
        raise ConfigError(f"batch_size must be a whole number or None; got a {kind}.")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")


def auto_batch_size(modality: str, shape: Sequence[int], device: str) -> int:
    """How many inputs [C, ...] of one shape go through an encoder together; 1 if it does not pay.

    It depends on nothing else, so that equal runs make equal batches.
    """
    if modality not in POSITIONS_TOGETHER:
        return 1
    on_cpu, elsewhere = POSITIONS_TOGETHER[modality]
    room = on_cpu if device == "cpu" else elsewhere
    return min(max(1, room // max(1, prod(shape[1:]))), MOST_TOGETHER[modality])


def batches_of_one_size(
    items: Sequence[Any],
    read: Callable[[Any], tuple[Tensor, dict[str, Any]]],
    batch_size: int | None,
    auto_size: Callable[[Sequence[int]], int],
) -> Iterator[tuple[list[tuple[int, Tensor, dict[str, Any]]], int]]:
    """Items whose tensors have one shape, together.

    Args:
        items: raw, or prepared.
        read: what prepares a raw one.
        batch_size: at most so many together, and then always as many; None: as `auto_size` says of
            a shape, and the few that are left over one by one.
        auto_size: how many inputs of a shape pay.

    Yields:
        (place in `items`, tensor, meta) of every item of a batch, and how many inputs to fill it
        up to, so that one size has one shape.
    """
    waiting: dict[tuple[int, ...], list] = {}
    for index, item in enumerate(items):
        if isinstance(item, PreparedItem):
            tensor, meta = item.tensor, item.meta
        else:
            tensor, meta = read(item)
        shape = tuple(tensor.shape)
        batch = waiting.setdefault(shape, [])
        batch.append((index, tensor, meta))
        size = batch_size or auto_size(shape)
        if len(batch) == size:
            yield waiting.pop(shape), size
    for shape, batch in waiting.items():
        size = batch_size or auto_size(shape)
        if batch_size is None and len(batch) * FEW <= size:
            yield from (([one], 1) for one in batch)
        else:
            yield batch, size
