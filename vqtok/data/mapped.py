"""Codes of a run as one memory map: any row at once, without parquet, shared by all processes.

The first use writes a folder beside the run's own, `.vqtok/map/DIGEST/`: `codes.bin` (flat codes,
little endian), `starts.npy` (where each row begins) and `shapes.npy`. The digest is that of the
manifest, so another run gets another map. Processes that come at the same time wait for the one
that writes; the folder appears whole, or not at all.
"""

import contextlib
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vqtok.data.manifest import MANIFEST
from vqtok.data.publish import STATE
from vqtok.data.reader import StoredRun, open_run
from vqtok.data.schema import RowSchema
from vqtok.errors import FormatError, ShapeError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CODES, STARTS, SHAPES = "codes.bin", "starts.npy", "shapes.npy"


class CodesMap:
    """A sequence of int64 arrays [Q, *grid], None for rows without codes.

    Args:
        run: a finished run.
        values: all codes, flat, as stored.
        starts: [N + 1], where each row begins.
        shapes: [N, axes], the shape of each row, -1 behind a shorter one; 0 first: no codes.
        cache: where the map was made; None: in the run.

    It travels to other processes as the name of its folder.
    """

    def __init__(
        self,
        run: StoredRun,
        values: np.ndarray,
        starts: np.ndarray,
        shapes: np.ndarray,
        cache: str | os.PathLike | None = None,
    ):
        self.run, self.values, self.starts, self.shapes = run, values, starts, shapes
        self.cache = cache

    def __reduce__(self) -> tuple:
        return map_codes, (self.run.root, self.cache)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, row: int) -> np.ndarray | None:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        shape = self.shapes[row]
        if shape[0] == 0:
            return None
        codes = self.values[self.starts[row] : self.starts[row + 1]]
        return codes.astype(np.int64).reshape(shape[shape >= 0])

    @cached_property
    def good(self) -> np.ndarray:
        """[n] int64, the rows that have codes, for `torch.utils.data.Subset` and the like."""
        return np.flatnonzero(self.shapes[:, 0])

    def as_array(self) -> np.ndarray:
        """[n, Q, *grid] in the stored dtype, the rows that have codes; nothing is read or copied.

        Raises:
            ShapeError: the rows have several shapes, or there is none.
        """
        shapes = self.shapes[self.good]
        if not len(shapes) or (shapes != shapes[0]).any():
            several = np.unique(shapes, axis=0)
            found = [[int(n) for n in shape if n >= 0] for shape in several[:3]]
            raise ShapeError(
                f"one array wants rows of one shape; {self.run.root} has {len(several)}: {found}. "
                "Take its rows one by one."
            )
        return self.values.reshape(len(self.good), *shapes[0][shapes[0] >= 0])


def map_codes(folder: str | os.PathLike, cache: str | os.PathLike | None = None) -> CodesMap:
    """The codes of a finished run, mapped.

    Args:
        folder: of the run.
        cache: a folder to make the map in, for runs that cannot be written to; default: the run's.

    Raises:
        FormatError: no finished run, or a damaged map.
    """
    run = open_run(folder)
    digest = hashlib.sha256((run.root / MANIFEST).read_bytes()).hexdigest()[:16]
    home = run.root / STATE / "map" if cache is None else Path(cache)
    target = home / digest
    if not target.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        with alone(home / "lock"):
            if not target.is_dir():  # another process may have made it meanwhile
                write_map(run, target)
    dtype = RowSchema(run.codebook_sizes).codes_dtype.newbyteorder("<")
    try:
        starts = np.load(target / STARTS, mmap_mode="r", allow_pickle=False)
        shapes = np.load(target / SHAPES, mmap_mode="r", allow_pickle=False)
        found = (len(starts) - 1, len(shapes), (target / CODES).stat().st_size)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{target} is damaged: {error}. Remove it.") from error
    rows, tokens = (run.content["totals"][name] for name in ("rows", "tokens"))
    if found != (rows, rows, tokens * dtype.itemsize):
        raise FormatError(f"{target} is damaged: it does not hold {tokens} codes. Remove it.")
    values = np.memmap(target / CODES, dtype, "r") if tokens else np.zeros(0, dtype)
    return CodesMap(run, values, starts, shapes, cache)


def write_map(run: StoredRun, target: Path) -> None:
    """Make the folder `target`, row group by row group; other maps beside it are removed."""
    rows = run.content["totals"]["rows"]
    dtype = RowSchema(run.codebook_sizes).codes_dtype.newbyteorder("<")
    axes = max((_axes(column) for (column,) in columns_of(run, "shape")), default=1)
    work = target.with_name(f"new-{socket.gethostname()}-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        starts = np.lib.format.open_memmap(work / STARTS, "w+", np.int64, (rows + 1,))
        shapes = np.lib.format.open_memmap(work / SHAPES, "w+", np.int32, (rows, axes))
        row = 0
        with open(work / CODES, "wb") as file:
            for codes, shape in columns_of(run, "codes", "shape"):
                lengths = codes.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
                end = row + len(lengths)
                if end > rows:
                    break
                starts[row + 1 : end + 1] = starts[row] + np.cumsum(lengths)
                shapes[row:end] = _padded(shape, axes)
                flat = codes.flatten().to_numpy(zero_copy_only=False)
                file.write(flat.astype(dtype, copy=False).tobytes())
                row = end
            file.flush()
            os.fsync(file.fileno())
        if row != rows:
            raise FormatError(f"{run.root} does not hold the {rows} rows of {MANIFEST}.")
        starts.flush()
        shapes.flush()
        with contextlib.suppress(FileExistsError):  # no locks here, and somebody was faster
            os.rename(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for other in target.parent.iterdir():
        if other.is_dir() and other != target and not other.name.startswith("new-"):
            shutil.rmtree(other, ignore_errors=True)


def columns_of(run: StoredRun, *names: str) -> Iterator[list[pa.ListArray]]:
    """Columns of a run, row group by row group."""
    for path in run.files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=list(names), use_threads=False)
                yield [table[name].combine_chunks() for name in names]


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    with open(path, "a") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _axes(column: Any) -> int:
    lengths = column.value_lengths()
    return max((length for length in lengths.to_pylist() if length), default=1)


def _padded(column: Any, axes: int) -> np.ndarray:
    """[n, axes]: -1 behind a shorter shape, zeros where there is none."""
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    table = np.where(lengths[:, None] > 0, -1, 0) * np.ones((1, axes), np.int32)
    table[np.arange(axes) < lengths[:, None]] = column.flatten().to_numpy(zero_copy_only=False)
    return table
