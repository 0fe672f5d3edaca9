"""One long stream cut into rows: nothing but the last row's end is padding, sequences are cut."""

from collections.abc import Iterator

from vqtok.layout.packing.rows import PackedRow, Packer, make_row
from vqtok.layout.sequence import Encoded


class Concatenated(Packer):
    """Rows in the order of the sequences; a cut sequence goes on in the next row."""

    def __init__(self, block_size: int, pad: int):
        super().__init__(block_size, pad)
        self._pieces: list[tuple[int, Encoded]] = []
        self._room = block_size

    def _add(self, document: int, sequence: Encoded) -> Iterator[PackedRow]:
        start = 0
        while start < sequence.ids.size:
            here = slice(start, start + self._room)
            part = Encoded(sequence.ids[here], sequence.loss_mask[here], sequence.key)
            self._pieces.append((document, part))
            start, self._room = start + part.ids.size, self._room - part.ids.size
            if not self._room:
                yield from self.finish()

    def finish(self) -> Iterator[PackedRow]:
        if self._pieces:
            yield make_row(self._pieces, self.block_size, self.pad)
        self._pieces, self._room = [], self.block_size
