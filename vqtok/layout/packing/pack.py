"""Packing by name."""

from collections.abc import Callable, Iterable, Iterator

from vqtok.errors import ConfigError
from vqtok.layout.packing.best_fit import best_fit
from vqtok.layout.packing.concat import concatenated
from vqtok.layout.packing.none import one_each
from vqtok.layout.packing.rows import PackedRow
from vqtok.layout.sequence import Encoded

PACKINGS: dict[str, Callable[[Iterable[Encoded], int, int], Iterator[PackedRow]]] = {
    "none": one_each,
    "concat": concatenated,
    "best_fit": best_fit,
}


def pack(
    sequences: Iterable[Encoded], method: str, block_size: int, pad: int
) -> Iterator[PackedRow]:
    """Sequences into rows of `block_size` ids.

    Args:
        sequences: what `SequenceLayout.encode` gives.
        method: none (a row each), concat (one stream, cut), best_fit (whole sequences, few rows).
        block_size: ids in a row.
        pad: id of the padding, `vocab.special("pad")`.

    Raises:
        ConfigError: an unknown method or an empty row.
        InputError: a sequence longer than a row, where the method does not cut.
    """
    if method not in PACKINGS:
        raise ConfigError(f"there is no packing {method!r}; there are {', '.join(PACKINGS)}.")
    if block_size < 1:
        raise ConfigError(f"block_size must be at least 1; got {block_size}.")
    return PACKINGS[method](sequences, block_size, pad)
