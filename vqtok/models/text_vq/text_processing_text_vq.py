"""Texts to bytes and back, and what of them is alike.

    str, bytes, path ──read_text──▶ uint8 [L] ──Patches──▶ different patches, each worked on once
    str              ◀─write_text── uint8 [L]

A text is its UTF-8 bytes. A lone surrogate, which UTF-8 has no bytes for, becomes the three bytes
that Python's "surrogatepass" gives it, so that every `str` has bytes of its own.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vqtok.errors import InputError

BYTES = 256
PAD = BYTES  # what stands in a patch where the text has ended
KEY_BYTES = 8  # a patch and, in the last byte, how many of its bytes are text


def read_text(item: Any) -> np.ndarray:
    """One text as uint8 [L], which may be empty.

    Args:
        item: a str; UTF-8 as bytes; or a path object, whose file holds UTF-8. A str is never
            taken for a path.

    Raises:
        InputError: another type, bytes that are not UTF-8, or a file that cannot be read.
    """
    if isinstance(item, str):
        return _array(item.encode("utf-8", "surrogatepass"))
    where = "the bytes"
    if isinstance(item, os.PathLike):
        where = os.fspath(item)
        try:
            item = Path(item).read_bytes()
        except OSError as error:
            raise InputError(f"{where} cannot be read: {error.strerror}.") from error
    if not isinstance(item, (bytes, bytearray, memoryview)):
        raise InputError(
            f"a text must be a str, UTF-8 as bytes or a path object; got a {type(item).__name__}."
        )
    data = bytes(item)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} are not UTF-8 text: {error}.") from error
    return _array(data)


def write_text(data: np.ndarray, exact: bool) -> str:
    """Bytes uint8 [L] to a str.

    Args:
        data: the bytes.
        exact: they came from a text, surrogates included; else what is no UTF-8 becomes U+FFFD.

    Raises:
        UnicodeDecodeError: `exact`, and they did not.
    """
    return data.tobytes().decode("utf-8", "surrogatepass" if exact else "replace")


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def to_patches(byte_values: Tensor, patch_bytes: int) -> Tensor:
    """[B, L] int64 to [B, ceil(L / P), P], the last patch filled up with PAD."""
    missing = -byte_values.shape[1] % patch_bytes
    return F.pad(byte_values, (0, missing), value=PAD).unflatten(1, (-1, patch_bytes))


class Patches:
    """The patches of some texts, laid end to end; equal ones are kept once.

    A patch depends on its own bytes only, so a text of a million equal letters is two patches.

    Args:
        texts: uint8 [L] each; every one begins a new patch.
        patch_bytes: P, at most 7.

    Attributes:
        rows: int64 [M, P], the different patches, PAD where a text ended.
        inverse: int64 [N], for every patch of the texts its row.
        splits: number of patches of each text.
    """

    def __init__(self, texts: Sequence[np.ndarray], patch_bytes: int):
        self.patch_bytes = patch_bytes
        self.splits = [-(-text.size // patch_bytes) for text in texts]
        keys = np.zeros((sum(self.splits), KEY_BYTES), np.uint8)
        keys[:, -1] = patch_bytes
        start = 0
        for text, count in zip(texts, self.splits, strict=True):
            padded = np.zeros(count * patch_bytes, np.uint8)
            padded[: text.size] = text
            keys[start : start + count, :patch_bytes] = padded.reshape(count, patch_bytes)
            start += count
            if text.size % patch_bytes:
                keys[start - 1, -1] = text.size % patch_bytes
        found, self.inverse = np.unique(keys.view(np.uint64).ravel(), return_inverse=True)
        different = found.view(np.uint8).reshape(-1, KEY_BYTES)
        rows = different[:, :patch_bytes].astype(np.int64)
        rows[np.arange(patch_bytes) >= different[:, -1:]] = PAD
        self.rows = torch.from_numpy(rows)

    def of_texts(self, values: np.ndarray) -> list[np.ndarray]:
        """What belongs to each row, [M, ...], as what belongs to the patches of each text."""
        whole = values[self.inverse]
        return np.split(whole, np.cumsum(self.splits)[:-1])


def distinct_codes(codes: np.ndarray, codebook_sizes: Sequence[int]) -> tuple[np.ndarray, ...]:
    """The different columns of codes [q, N]: (int64 [q, M], for every column its place [N])."""
    _, inverse = np.unique(codes[0], return_inverse=True)
    for level, size in zip(codes[1:], codebook_sizes[1:], strict=False):
        # numbered anew at each level, so that a number never outgrows 64 bits
        _, inverse = np.unique(inverse * np.int64(size) + level, return_inverse=True)
    first = np.zeros(inverse.max(initial=-1) + 1, np.int64)
    first[inverse] = np.arange(inverse.size)
    return codes[:, first], inverse
