"""Packing by name."""

from collections.abc import Iterable, Iterator

from vqtok.errors import ConfigError
from vqtok.layout.packing.best_fit import BestFit
from vqtok.layout.packing.concat import Concatenated
from vqtok.layout.packing.none import OneEach
from vqtok.layout.packing.rows import PackedRow, Packer
from vqtok.layout.sequence import Encoded

PACKINGS: dict[str, type[Packer]] = {
    "none": OneEach,
    "concat": Concatenated,
    "best_fit": BestFit,
}


def build_packer(method: str, block_size: int, pad: int) -> Packer:
    """What packs one split; the arguments and errors of `pack`."""
    if method not in PACKINGS:
        raise ConfigError(f"there is no packing {method!r}; there are {', '.join(PACKINGS)}.")
    if block_size < 1:
        raise ConfigError(f"block_size must be at least 1; got {block_size}.")
    return PACKINGS[method](block_size, pad)


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
    return _rows(sequences, build_packer(method, block_size, pad))


def _rows(sequences: Iterable[Encoded], packer: Packer) -> Iterator[PackedRow]:
    for sequence in sequences:
        yield from packer.add(sequence)
    yield from packer.finish()
