"""Best fit, longest sequences first: whole sequences in few rows, none is cut.

Source: Johnson 1974, best-fit decreasing: never more than 11/9 of the fewest rows possible, plus 4;
for training, Ding et al. 2024, arXiv 2404.10830.
"""

import bisect
from collections.abc import Iterator

from vqtok.layout.packing.rows import PackedRow, Packer, check_fits, make_row
from vqtok.layout.sequence import Encoded

BUFFER = 65_536  # sequences that are packed together: bounds the memory that an export takes


class BestFit(Packer):
    """Rows of whole sequences; a sequence longer than a row is refused.

    Args:
        block_size: ids in a row.
        pad: what fills the rest of a row.
        buffer: sequences that are sorted and packed together.
    """

    def __init__(self, block_size: int, pad: int, buffer: int = BUFFER):
        super().__init__(block_size, pad)
        self._buffer = buffer
        self._waiting: list[tuple[int, Encoded]] = []

    def _add(self, document: int, sequence: Encoded) -> Iterator[PackedRow]:
        check_fits(document, sequence, self.block_size)
        self._waiting.append((document, sequence))
        if len(self._waiting) == self._buffer:
            yield from self.finish()

    def finish(self) -> Iterator[PackedRow]:
        batch, self._waiting = self._waiting, []
        for row in _bins([sequence.ids.size for _, sequence in batch], self.block_size):
            yield make_row([batch[index] for index in sorted(row)], self.block_size, self.pad)


def _bins(lengths: list[int], size: int) -> list[list[int]]:
    """Indices of the lengths in every bin; a length goes where it leaves the least room."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (room left, bin), ascending
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect.bisect_left(room, (lengths[index], -1))
        if place == len(room):
            bins.append([])
            left, chosen = size, len(bins) - 1
        else:
            left, chosen = room.pop(place)
        bins[chosen].append(index)
        bisect.insort(room, (left - lengths[index], chosen))
    return bins
