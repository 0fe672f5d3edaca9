"""One long stream cut into rows: nothing but the last row's end is padding, sequences are cut."""

from collections.abc import Iterable, Iterator

from vqtok.layout.packing.rows import PackedRow, make_row
from vqtok.layout.sequence import Encoded


def concatenated(sequences: Iterable[Encoded], block_size: int, pad: int) -> Iterator[PackedRow]:
    """Rows in the order of the sequences; a cut sequence goes on in the next row."""
    pieces, room = [], block_size
    for document, sequence in enumerate(sequences):
        start = 0
        while start < sequence.ids.size:
            here = slice(start, start + room)
            part = Encoded(sequence.ids[here], sequence.loss_mask[here], sequence.key)
            pieces.append((document, part))
            start, room = start + part.ids.size, room - part.ids.size
            if not room:
                yield make_row(pieces, block_size, pad)
                pieces, room = [], block_size
    if pieces:
        yield make_row(pieces, block_size, pad)
