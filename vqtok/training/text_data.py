"""Texts for training and evaluation: UTF-8 bytes in memory, cut into windows on the fly.

Sample number `i` of a run is a pure function of (seed, i). A window may begin and end inside a
character: the tokenizer works on bytes.

Shapes: int64 [L] in 0 to 255; batches [B, L].
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vqtok.errors import ConfigError, InputError
from vqtok.training.files import find_files, parquet_batches

logger = logging.getLogger(__name__)

TEXT_SUFFIXES = frozenset({".txt"})
SEPARATOR = b"\n\n"  # between the texts of a source


def read_bytes(source: str | Path, column: str = "text", limit: int | None = None) -> np.ndarray:
    """The texts of a source, one after another with an empty line between: uint8 [N].

    Args:
        source: a folder of .txt and parquet files, searched in the order of the names, or a file.
        column: the parquet column of strings.
        limit: keep the first texts (files, rows) only.

    Raises:
        ConfigError: the source does not exist, holds no text, or lacks the column.
        InputError: a row that is not text.
    """
    parts = []
    for number, text in enumerate(_texts(Path(source), column)):
        if limit is not None and number >= limit:
            break
        parts.append(text)
    joined = SEPARATOR.join(parts)
    if not joined:
        raise ConfigError(
            f"training wants texts in {source}, but found none: give a folder of .txt files or "
            f"parquet with a column of strings {column!r}."
        )
    logger.info("%d texts, %d bytes, from %s", len(parts), len(joined), source)
    return np.frombuffer(joined, np.uint8)


class RandomWindows(Dataset):
    """A run's whole stream of windows: item i depends on (seed, i) only.

    Args:
        data: uint8 [N], at least a window.
        length: samples in the run: steps x batch x accumulation x processes.
        crop: bytes of a window.
    """

    def __init__(self, data: np.ndarray, length: int, crop: int, seed: int):
        if length < 1 or not 1 <= crop <= len(data):
            raise ConfigError(
                f"windows want length >= 1 and a crop of 1 to the {len(data)} bytes of the "
                f"source; got length={length}, crop={crop}."
            )
        self.data, self.length, self.crop, self.seed = data, length, crop, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        """int64 [crop]."""
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of a run of {self.length}")
        rng = np.random.default_rng((self.seed, index))
        start = int(rng.integers(len(self.data) - self.crop + 1))
        return torch.from_numpy(self.data[start : start + self.crop].astype(np.int64))


def windows(data: np.ndarray, size: int) -> Tensor:
    """The bytes cut into int64 [N, size]; what is left at the end is dropped.

    Raises:
        ConfigError: less than a window.
    """
    count = len(data) // size
    if not count:
        raise ConfigError(
            f"evaluation wants at least a window of {size} bytes; the source has {len(data)}."
        )
    return torch.from_numpy(data[: count * size].astype(np.int64)).view(count, size)


def collate_windows(samples: list[Tensor]) -> dict[str, Tensor]:
    """What the model's forward takes: `byte_values` int64 [B, L]."""
    return {"byte_values": torch.stack(samples)}


def _texts(source: Path, column: str) -> Iterator[bytes]:
    for file in find_files(source, TEXT_SUFFIXES | {".parquet"}):
        if file.suffix.lower() != ".parquet":
            yield file.read_bytes()
            continue
        row = 0
        for batch in parquet_batches(file, column):
            for value in batch.to_pylist():
                if not isinstance(value, str):
                    raise InputError(
                        f"{file}, row {row}: column {column!r} holds a {type(value).__name__}, "
                        "not text."
                    )
                row += 1
                yield value.encode()
