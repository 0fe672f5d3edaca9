"""Vectors for training and evaluation: all in memory, every one once a turn.

Shapes: float32 [N, D]; batches [B, D].
"""

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vqtok.errors import ConfigError, InputError
from vqtok.models.vectors import read_vectors
from vqtok.training.files import find_files, parquet_batches
from vqtok.training.turns import Turns

logger = logging.getLogger(__name__)

VECTOR_SUFFIXES = frozenset({".npy", ".npz"})
BLOCK_ROWS = 65_536


def read_vector_files(
    source: str | Path, width: int, column: str = "embedding", limit: int | None = None
) -> Tensor:
    """Vectors from .npy and .npz files and from a list column of parquet files: float32 [N, D].

    Args:
        source: a folder, searched in the order of the names, or a file.
        width: D of the tokenizer.
        column: the parquet column, and the array of an .npz file with several.
        limit: keep the first vectors only.

    Raises:
        ConfigError: the source does not exist, holds no vector, or lacks the column.
        InputError: a file that is not readable, or has vectors of another width or with NaN.
    """
    parts, count = [], 0
    for file in find_files(Path(source), VECTOR_SUFFIXES | {".parquet"}):
        for rows in _blocks(file, column):
            if limit is not None and count + len(rows) > limit:
                rows = rows[: limit - count]
            if not len(rows):
                continue
            try:
                parts.append(read_vectors(rows, width))
            except InputError as error:
                raise InputError(f"{file}: {error}", error.status) from error
            count += len(rows)
    if not parts:
        raise ConfigError(
            f"training wants vectors in {source}, but found none: give .npy or .npz files "
            f"[N, D], or parquet with a list column {column!r}."
        )
    logger.info("%d vectors from %s", count, source)
    return torch.cat(parts)


class ShuffledVectors(Dataset):
    """A run's whole stream of vectors: item i depends on (seed, i) only.

    Args:
        vectors: [N, D].
        length: samples in the run: steps x batch x accumulation x processes.
    """

    def __init__(self, vectors: Tensor, length: int, seed: int):
        self.vectors, self.length = vectors, length
        self._turns = Turns(len(vectors), seed)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        """float32 [D]."""
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of a run of {self.length}")
        return self.vectors[self._turns[index]]


def collate_vectors(vectors: list[Tensor]) -> dict[str, Tensor]:
    """What the model's forward takes: `vectors` float32 [B, D]."""
    return {"vectors": torch.stack(vectors)}


def _blocks(file: Path, column: str) -> Iterator[list | np.ndarray]:
    """Arrays [n, D], a part of the file at a time."""
    if file.suffix.lower() == ".parquet":
        for batch in parquet_batches(file, column, BLOCK_ROWS):
            yield batch.to_pylist()
        return
    array = _array(file, column)
    if array.ndim != 2:
        raise InputError(f"{file} should hold vectors [N, D]; its shape is {list(array.shape)}.")
    for start in range(0, len(array), BLOCK_ROWS):
        yield np.array(array[start : start + BLOCK_ROWS])


def _array(file: Path, column: str) -> np.ndarray:
    """The array of a .npy file, or the one of an .npz file that has the name, or the only one."""
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            if column not in names and len(names) != 1:
                raise ConfigError(
                    f"{file} has the arrays {names}, but not {column!r}: name one with data.column."
                )
            return loaded[column if column in names else names[0]]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, ConfigError):
            raise
        raise InputError(f"{file} cannot be read as numpy arrays: {error}") from error
