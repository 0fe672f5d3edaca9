"""Vectors in .npy and .npz files: every row of an array [N, D] is one input.

An array with one axis is one vector. A file that cannot be read is one row that says so; arrays
are never unpickled.
"""

import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from vqtok.data.files import Files, LocalFiles
from vqtok.data.modalities import MODALITIES
from vqtok.data.sources import Choice, InputShard, RawSample, Segment, Source
from vqtok.errors import ConfigError, InputError

UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError)


class ArraySource(Source):
    """Rows of arrays, file after file in the order of the names.

    A `column` names the array of .npz files; default: found by name, or the only one.
    """

    kind = "arrays"

    def __init__(self, files: Files, names: Sequence[str], choice: Choice):
        super().__init__(files, names, choice)
        plain = [name for name in self.names if name.lower().endswith(".npy")]
        if choice.column is not None and plain:
            raise ConfigError(
                f"--column {choice.column} names an array of .npz files; {plain[0]} holds a "
                "single array."
            )
        if choice.keep:
            raise ConfigError(f"--keep names columns of tables; {self.names[0]} has none.")
        self.array = choice.column
        self._open: tuple[str, np.ndarray] | None = None

    def __getstate__(self) -> dict:
        """To another process without the open array."""
        return self.__dict__ | {"_open": None}

    def list(self) -> list[InputShard]:
        shards = []
        for name in self.names:
            try:
                rows = len(self._rows(name))
            except InputError:
                rows = 1  # the row that says why
            shards.append(InputShard(name, *self.version(name), rows=rows))
        self._open = None
        return shards

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        try:
            rows = self._rows(segment.uri)
        except InputError as error:
            yield RawSample(None, None, segment.uri, 0, error=error)
            return
        for index in range(segment.row_start, segment.row_start + segment.row_count):
            # a copy: the file may be mapped, and is closed before the vector is used
            yield RawSample(np.array(rows[index]), None, segment.uri, index)

    def _rows(self, name: str) -> np.ndarray:
        """The array of a file as [N, D]; the last one stays open for the next unit."""
        if self._open is None or self._open[0] != name:
            self._open = (name, open_array(self.files, name, self.array))
        return self._open[1]


def open_array(files: Files, name: str, array: str | None) -> np.ndarray:
    """The vectors [N, D] of one file; a .npy file of this machine is mapped, not read.

    Raises:
        InputError: no array, not the array asked for, or not numbers with one or two axes.
    """
    try:
        if name.lower().endswith(".npy") and isinstance(files, LocalFiles):
            rows = np.load(files.root / name, mmap_mode="r", allow_pickle=False)
        else:
            with files.open(name) as file:
                rows = np.load(file, allow_pickle=False)
                if isinstance(rows, np.lib.npyio.NpzFile):
                    rows = rows[find_array(rows.files, array, name)]
    except UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} cannot be read as an array: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.ndim not in (1, 2) or rows.dtype.kind not in "fiu":
        raise InputError(
            f"{name} should hold vectors, real numbers [N, D] or [D]; it holds "
            f"{getattr(rows, 'dtype', type(rows).__name__)} {list(getattr(rows, 'shape', []))}."
        )
    return rows[None] if rows.ndim == 1 else rows


def find_array(names: list[str], array: str | None, name: str) -> str:
    """The array asked for, one with a usual name, or the only one."""
    usual = [name for name in MODALITIES["embedding"].columns if name in names]
    if array is not None and array in names:
        return array
    if array is None and usual:
        return usual[0]
    if array is None and len(names) == 1:
        return names[0]
    wanted = f"an array {array!r}" if array else "one array of vectors"
    raise InputError(f"{name} should hold {wanted}; it holds {names}. Name it with --column.")
