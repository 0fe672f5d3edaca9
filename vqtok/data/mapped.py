"""Codes of a run as one memory map: any row at once, without parquet, shared by all processes.

The first use writes two files beside the run's own, `.vqtok/map/codes.bin` (flat codes, little
endian) and `.vqtok/map/rows.npz` (where each row begins, and its shape); they belong to the
manifest that they were made from, and are made again for another.
"""

import hashlib
import io
import os
from pathlib import Path

import numpy as np

from vqtok.data.manifest import MANIFEST
from vqtok.data.parquet import read_parquet
from vqtok.data.publish import STATE, LocalStore
from vqtok.data.reader import StoredRun, open_run
from vqtok.data.schema import RowSchema
from vqtok.errors import FormatError

CODES = f"{STATE}/map/codes.bin"
ROWS = f"{STATE}/map/rows.npz"


class CodesMap:
    """A sequence of int64 arrays [Q, *grid], None for rows without codes.

    Args:
        run: a finished run.
        values: all codes, flat, as stored.
        starts: [N + 1], where each row begins.
        shapes: [N, axes], the shape of each row, -1 behind a shorter one; 0 first: no codes.
    """

    def __init__(self, run: StoredRun, values: np.ndarray, starts: np.ndarray, shapes: np.ndarray):
        self.run, self.values, self.starts, self.shapes = run, values, starts, shapes

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


def map_codes(folder: str | os.PathLike) -> CodesMap:
    """The codes of a finished run, mapped.

    Raises:
        FormatError: no finished run.
    """
    run = open_run(folder)
    store = LocalStore(Path(folder))
    source = hashlib.sha256(store.path(MANIFEST).read_bytes()).hexdigest()
    if not store.exists(ROWS) or _read_rows(store)["source"] != source:
        with store.lock():
            _write(store, run, source)
    rows = _read_rows(store)
    dtype = RowSchema(run.codebook_sizes).codes_dtype.newbyteorder("<")
    total = int(rows["starts"][-1])
    if store.path(CODES).stat().st_size != total * dtype.itemsize:
        raise FormatError(f"{store.path(CODES)} is damaged: remove {store.path(ROWS)}.")
    values = np.memmap(store.path(CODES), dtype, "r") if total else np.zeros(0, dtype)
    return CodesMap(run, values, rows["starts"], rows["shapes"])


def _read_rows(store: LocalStore) -> dict[str, np.ndarray]:
    with np.load(store.path(ROWS), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(store: LocalStore, run: StoredRun, source: str) -> None:
    """Both files; the one that says that they are there comes last."""
    dtype = RowSchema(run.codebook_sizes).codes_dtype.newbyteorder("<")
    lengths, shapes = [], []

    def parts():
        for path in run.files:
            table = read_parquet(path, ["codes", "shape"])
            for batch in table.to_batches():
                codes = batch["codes"]
                lengths.append(codes.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
                shapes.extend(batch["shape"].to_pylist())
                flat = codes.flatten().to_numpy(zero_copy_only=False)
                yield flat.astype(dtype, copy=False).tobytes()

    store.replace_parts(CODES, parts())
    axes = max((len(shape) for shape in shapes if shape), default=1)
    # a row without codes begins with 0, and -1 fills up a shorter shape
    table = [[*shape, *[-1] * (axes - len(shape))] if shape else [0] * axes for shape in shapes]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    out = io.BytesIO()
    np.savez(out, starts=starts, shapes=np.array(table, np.int32), source=np.array(source))
    store.replace(ROWS, out.getvalue())
