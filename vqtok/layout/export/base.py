"""What every exporter is: records in, files out, one writer for each split."""

import json
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from vqtok.errors import CodeRangeError
from vqtok.layout.sequence import Key
from vqtok.ops import checked_cast, smallest_dtype

TRAIN, VALIDATION = "train", "val"


@dataclass(frozen=True, eq=False)
class Record:
    """One row to be written.

    Attributes:
        ids: integers [S]; plain codes are flat, in C order of `shape`.
        key: which input it came from: the id of its row; a tuple of ids for rows that belong
            together; for packed rows a tuple with the key of every piece.
        shape: of plain codes: [Q, *grid].
        loss_mask: bool [S], of sequences.
        document_ids: int32 [S], of packed rows.
        position_ids: int32 [S], of packed rows.
    """

    ids: np.ndarray
    key: str | tuple[Key, ...] = ""
    shape: tuple[int, ...] | None = None
    loss_mask: np.ndarray | None = None
    document_ids: np.ndarray | None = None
    position_ids: np.ndarray | None = None


@dataclass(frozen=True)
class Target:
    """Where and what an exporter writes.

    Attributes:
        folder: exists and is empty.
        vocab_size: every id is below it.
        files: closes what is open when the export ends, whether it ends well or not.
        block_size: length of all records, if they were packed.
        begin: the id that sequences begin with, <bos>; None if there is none.
    """

    folder: Path
    vocab_size: int
    files: ExitStack
    block_size: int | None = None
    begin: int | None = None

    def open(self, name: str) -> BinaryIO:
        """A new file in the folder."""
        return self.files.enter_context(open(self.folder / name, "wb"))

    def open_keys(self, split: str) -> "KeyFile":
        """SPLIT.keys.jsonl, for formats that have no place for keys."""
        return KeyFile(self.open(f"{split}.keys.jsonl"))


@dataclass(frozen=True)
class KeyFile:
    """One line a record: its key as JSON, a string or a list. Says which input it came from."""

    file: BinaryIO

    def add(self, record: Record) -> None:
        self.file.write(json.dumps(record.key).encode() + b"\n")


def key_text(record: Record) -> str:
    """The key for a column of text: as it is, or JSON if it is a list or looks like JSON."""
    plain = isinstance(record.key, str) and not record.key.startswith(("[", '"'))
    return record.key if plain else json.dumps(record.key)


class Exporter(ABC):
    """Writes the records of one split. `close` must be called, and only after the last record.

    Args:
        target: where to, and what comes.
        split: "train" or "val".
    """

    name: ClassVar[str]
    takes_codes: ClassVar[bool] = True  # holds records of several axes
    default_val_fraction: ClassVar[float] = 0.0

    def __init__(self, target: Target, split: str):
        self.target = target
        self.split = split
        self.dtype = self.choose_dtype(target.vocab_size)

    @classmethod
    def choose_dtype(cls, vocab_size: int) -> np.dtype:
        """The type of the ids on disk; refuses a vocabulary that the format cannot hold."""
        return smallest_dtype(vocab_size)

    def cast(self, record: Record) -> np.ndarray:
        """The ids in the type on disk, each looked at."""
        return checked_cast(record.ids, self.target.vocab_size).astype(self.dtype)

    @abstractmethod
    def add(self, record: Record) -> None:
        """Write one record."""

    @abstractmethod
    def close(self) -> None:
        """Write what comes last, and close the files."""

    @property
    def folder(self) -> Path:
        """The split's own folder, for formats with a folder a split."""
        path = self.target.folder / self.split
        path.mkdir(exist_ok=True)
        return path


def uint16_or_refuse(name: str, vocab_size: int) -> np.dtype:
    """uint16, for formats that know no other type."""
    if vocab_size > 2**16:
        raise CodeRangeError(
            f"{name} stores ids as uint16, at most 65,536 of them; the vocabulary has "
            f"{vocab_size:,}. Export to megatron, hf, mds, litdata or memmap."
        )
    return np.dtype(np.uint16)
