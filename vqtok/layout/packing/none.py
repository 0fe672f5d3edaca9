"""No packing: a row for every sequence, filled up with padding."""

from collections.abc import Iterator

from vqtok.layout.packing.rows import PackedRow, Packer, check_fits, make_row
from vqtok.layout.sequence import Encoded


class OneEach(Packer):
    """Rows in the order of the sequences; a longer sequence is refused."""

    def _add(self, document: int, sequence: Encoded) -> Iterator[PackedRow]:
        check_fits(document, sequence, self.block_size)
        yield make_row([(document, sequence)], self.block_size, self.pad)
