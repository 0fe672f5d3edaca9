"""Lists of raw items: what counts as one, and how items of one size go together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from vqtok.errors import InputError


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
POSITIONS_TOGETHER = {"image": (1 << 14, 1 << 22), "embedding": (1 << 10, 1 << 16)}
MOST_TOGETHER = 1 << 10


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


def auto_batch_size(modality: str, shape: Sequence[int], device: str) -> int:
    """How many inputs [C, ...] of one shape go through an encoder together; 1 if it does not pay.

    It depends on nothing else, so that equal runs make equal batches.
    """
    if modality not in POSITIONS_TOGETHER:
        return 1
    on_cpu, elsewhere = POSITIONS_TOGETHER[modality]
    room = on_cpu if device == "cpu" else elsewhere
    return min(max(1, room // max(1, prod(shape[1:]))), MOST_TOGETHER)


def batches_of_one_size(
    items: Sequence[Any],
    read: Callable[[Any], tuple[Tensor, dict[str, Any]]],
    size_of: Callable[[Sequence[int]], int],
) -> Iterator[list[tuple[int, Tensor, dict[str, Any]]]]:
    """Items whose tensors have one shape, at most `size_of(shape)` of them together.

    Yields:
        (place in `items`, tensor, meta) of every item of a batch.
    """
    waiting: dict[tuple[int, ...], list] = {}
    for index, item in enumerate(items):
        if isinstance(item, PreparedItem):
            tensor, meta = item.tensor, item.meta
        else:
            tensor, meta = read(item)
        batch = waiting.setdefault(tuple(tensor.shape), [])
        batch.append((index, tensor, meta))
        if len(batch) == size_of(tensor.shape):
            yield waiting.pop(tuple(tensor.shape))
    yield from waiting.values()
