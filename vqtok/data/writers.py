"""Decoded items as files: pictures, sounds and texts one a row, vectors one array a source file.

image      png (no further loss)
audio      wav or flac, 16 bits a sample
text       txt, UTF-8
embedding  npy, float32 [N, D]: row i is vector i of the source file, NaN where it had no codes
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vqtok.errors import ConfigError

# the first of each is the default
FORMATS = {
    "image": ("png",),
    "audio": ("wav", "flac"),
    "text": ("txt",),
    "embedding": ("npy",),
}


def chosen_format(modality: str, file_format: str | None) -> str:
    """The format asked for, or the modality's usual one."""
    formats = FORMATS[modality]
    if file_format is None:
        return formats[0]
    if file_format not in formats:
        raise ConfigError(
            f"decoded {modality} is written as {' or '.join(formats)}; got {file_format!r}."
        )
    return file_format


def write_item(path: Path, item: Any, modality: str) -> None:
    """One image, sound or text as a file; its format is the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if modality == "image":
        item.save(path)
    elif modality == "audio":
        import soundfile

        waveform, rate = item
        # libsndfile would wrap what lies outside
        samples = np.clip(np.asarray(waveform, np.float32).T, -1, 1)
        soundfile.write(path, samples, rate, subtype="PCM_16")
    else:
        path.write_bytes(item.encode("utf-8", "surrogatepass"))


class VectorFile:
    """A .npy file that is filled row by row; it appears with the first vector.

    Args:
        path: of the file.
        rows: N.
    """

    def __init__(self, path: Path, rows: int):
        self.path, self.rows = path, rows
        self._array: np.memmap | None = None

    def write(self, places: Iterable[int], vectors: Iterable[np.ndarray]) -> None:
        for place, vector in zip(places, vectors, strict=True):
            if self._array is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                shape = (self.rows, *np.shape(vector))
                self._array = np.lib.format.open_memmap(self.path, "w+", np.float32, shape)
                self._array[:] = np.nan
            self._array[place] = vector

    def close(self) -> bool:
        """Whether anything was written."""
        if self._array is None:
            return False
        self._array.flush()
        self._array = None
        return True
