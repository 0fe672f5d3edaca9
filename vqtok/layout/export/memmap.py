"""Raw arrays for numpy.memmap: SPLIT.bin, SPLIT.offsets.npy, and for codes SPLIT.shapes.npy.

offsets = np.load("train.offsets.npy")
ids = np.memmap("train.bin", dtype=json.load(open("memmap.json"))["dtype"], mode="r")
row = ids[offsets[i]:offsets[i + 1]]            # .reshape(shapes[i]) of plain codes
"""

import json

import numpy as np

from vqtok.layout.export.base import Exporter, Record, Target


class MemmapExporter(Exporter):
    """Little-endian ids one after the other; offsets are int64, in ids."""

    name = "memmap"

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        self._file = target.open(f"{split}.bin")
        self._sizes: list[int] = []
        self._shapes: list[tuple[int, ...]] = []
        self._keys: list[str] = []

    def add(self, record: Record) -> None:
        ids = self.cast(record)
        self._file.write(ids.astype(ids.dtype.newbyteorder("<")).tobytes())
        self._sizes.append(ids.size)
        self._keys.append(record.key)
        if record.shape is not None:
            self._shapes.append(record.shape)

    def close(self) -> None:
        self._file.close()
        folder, split = self.target.folder, self.split
        np.save(folder / f"{split}.offsets.npy", np.cumsum([0, *self._sizes], dtype=np.int64))
        if self._shapes:
            np.save(folder / f"{split}.shapes.npy", np.asarray(self._shapes, np.int32))
        keys = "".join(json.dumps(key) + "\n" for key in self._keys)
        (folder / f"{split}.keys.jsonl").write_text(keys, encoding="utf-8")
        about = {"dtype": self.dtype.newbyteorder("<").str, "vocab_size": self.target.vocab_size}
        (folder / "memmap.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
