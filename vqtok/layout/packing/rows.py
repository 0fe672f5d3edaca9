"""A packed row, and what its methods share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vqtok.errors import InputError
from vqtok.layout.sequence import Encoded, Key, labels_of

PADDING = -1  # the document of padding


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Pieces of sequences in one row.

    Attributes:
        ids: [block_size], the vocabulary's dtype.
        loss_mask: bool [block_size]; False at padding, and at the first id of every piece: what
            would have to predict it belongs to another document or to no one.
        document_ids: int32 [block_size]: which of the sequences that were packed, in an export
            those of one split, an id belongs to; -1 at padding.
        position_ids: int32 [block_size]: 0, 1, ... from the start of every piece.
        key: keys of the sequences inside, one a piece.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    document_ids: np.ndarray
    position_ids: np.ndarray
    key: tuple[Key, ...] = ()

    @property
    def labels(self) -> np.ndarray:
        """int64 [block_size]: the ids, and -100 where nothing is to be learned."""
        return labels_of(self.ids, self.loss_mask)

    def pieces(self) -> list[tuple[int, np.ndarray]]:
        """(document, ids) of every piece, in order."""
        cuts = np.flatnonzero(np.diff(self.document_ids)) + 1
        parts = zip(np.split(self.document_ids, cuts), np.split(self.ids, cuts), strict=True)
        return [(int(doc[0]), ids) for doc, ids in parts if doc[0] != PADDING]


class Packer(ABC):
    """Takes sequences one by one and gives rows as they become full; counts the sequences.

    Args:
        block_size: ids in a row.
        pad: what fills the rest of a row.
    """

    def __init__(self, block_size: int, pad: int):
        self.block_size, self.pad = block_size, pad
        self.documents = 0

    def add(self, sequence: Encoded) -> Iterator[PackedRow]:
        """Take a sequence, once this is read to its end; the rows that are full then."""
        self.documents += 1
        return self._add(self.documents - 1, sequence)

    @abstractmethod
    def _add(self, document: int, sequence: Encoded) -> Iterator[PackedRow]:
        """`add`, with the number of the sequence."""

    def finish(self) -> Iterator[PackedRow]:
        """The rows that are left when no more sequences come."""
        yield from ()


def make_row(pieces: Sequence[tuple[int, Encoded]], block_size: int, pad: int) -> PackedRow:
    """One row of (document, sequence) pieces, filled up with padding."""
    dtype = pieces[0][1].ids.dtype
    ids = np.full(block_size, pad, dtype)
    mask = np.zeros(block_size, bool)
    documents = np.full(block_size, PADDING, np.int32)
    positions = np.zeros(block_size, np.int32)
    at = 0
    for document, piece in pieces:
        here = slice(at, at + piece.ids.size)
        ids[here], mask[here] = piece.ids, piece.loss_mask
        mask[at] = False
        documents[here], positions[here] = document, np.arange(piece.ids.size)
        at = here.stop
    keys = tuple(piece.key for _, piece in pieces)
    return PackedRow(ids, mask, documents, positions, keys)


def check_fits(document: int, sequence: Encoded, block_size: int) -> None:
    if sequence.ids.size > block_size:
        name = f" ({sequence.key})" if sequence.key else ""
        raise InputError(
            f"sequence {document}{name} has {sequence.ids.size} ids and does not fit into rows of "
            f"{block_size}. Raise block_size, or pack with concat, which cuts sequences.",
            status="too_large",
        )


def efficiency(rows: Iterable[PackedRow]) -> float:
    """The share of places that hold an id and not padding, 0 to 1."""
    used, total = 0, 0
    for row in rows:
        used += int((row.document_ids != PADDING).sum())
        total += row.ids.size
    return used / total if total else 0.0
