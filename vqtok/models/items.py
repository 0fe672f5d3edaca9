"""Lists of raw items: what counts as one, and how items of one size go together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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


def batches_of_one_size(
    items: Sequence[Any], read: Callable[[Any], tuple[Tensor, dict[str, Any]]], batch_size: int
) -> Iterator[list[tuple[int, Tensor, dict[str, Any]]]]:
    """Items whose tensors have one shape, at most `batch_size` of them together.

    Yields:
        (place in `items`, tensor, meta) of every item of a batch.
    """
    waiting: dict[tuple[int, ...], list] = {}
    for index, item in enumerate(items):
        tensor, meta = read(item)
        batch = waiting.setdefault(tuple(tensor.shape), [])
        batch.append((index, tensor, meta))
        if len(batch) == batch_size:
            yield waiting.pop(tuple(tensor.shape))
    yield from waiting.values()
