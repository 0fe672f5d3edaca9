"""No packing: a row for every sequence, filled up with padding."""

from collections.abc import Iterable, Iterator

from vqtok.layout.packing.rows import PackedRow, check_fits, make_row
from vqtok.layout.sequence import Encoded


def one_each(sequences: Iterable[Encoded], block_size: int, pad: int) -> Iterator[PackedRow]:
    """Rows in the order of the sequences; a longer sequence is refused."""
    for document, sequence in enumerate(sequences):
        check_fits(document, sequence, block_size)
        yield make_row([(document, sequence)], block_size, pad)
