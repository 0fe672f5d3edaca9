"""Raw arrays for numpy.memmap: SPLIT.bin, SPLIT.offsets.npy, and for codes SPLIT.shapes.npy.

offsets = np.load("train.offsets.npy")
ids = np.memmap("train.bin", dtype=json.load(open("memmap.json"))["dtype"], mode="r")
row = ids[offsets[i]:offsets[i + 1]]            # .reshape(shapes[i]) of plain codes
"""

import json
from array import array

import numpy as np

from vqtok.errors import InputError
from vqtok.layout.export.base import Exporter, Record, Target


class MemmapExporter(Exporter):
    """Little-endian ids one after the other; offsets are int64, in ids."""

    name = "memmap"

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        self._file = target.open(f"{split}.bin")
        self._keys = target.open_keys(split)
        self._sizes = array("q")  # eight bytes a row, not an object
        self._shapes = array("i")
        self._axes = 0

    def add(self, record: Record) -> None:
        ids = self.cast(record)
        self._file.write(ids.astype(ids.dtype.newbyteorder("<")).tobytes())
        self._sizes.append(ids.size)
        self._keys.add(record)
        if record.shape is not None:
            self._axes = self._axes or len(record.shape)
            if len(record.shape) != self._axes:
                raise InputError(
                    f"one memmap holds codes of {self._axes} axes; got {list(record.shape)}."
                )
            self._shapes.extend(record.shape)

    def close(self) -> None:
        self._file.close()
        folder, split = self.target.folder, self.split
        offsets = np.zeros(len(self._sizes) + 1, np.int64)
        np.cumsum(np.asarray(self._sizes), out=offsets[1:])
        np.save(folder / f"{split}.offsets.npy", offsets)
        if self._axes:
            shapes = np.asarray(self._shapes, np.int32).reshape(-1, self._axes)
            np.save(folder / f"{split}.shapes.npy", shapes)
        about = {"dtype": self.dtype.newbyteorder("<").str, "vocab_size": self.target.vocab_size}
        (folder / "memmap.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
