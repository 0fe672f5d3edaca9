"""Megatron-LM's indexed dataset: SPLIT.bin with the ids, SPLIT.idx with where sequences lie.

Source: megatron/core/datasets/indexed_dataset.py at d98e8a6. The index is "MMIDIDX" and two zero
bytes, version 1 (uint64), the type's number (uint8), the numbers of sequences and of document
indices (uint64 each), then int32 lengths, int64 byte pointers and int64 document indices.
"""

import struct
from array import array

import numpy as np

from vqtok.errors import CodeRangeError, InputError
from vqtok.layout.export.base import Exporter, Record, Target

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
TYPE_NUMBERS = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}
UINT16_BELOW = 65_500  # Megatron's own rule: uint16 for vocabularies smaller than this
LARGEST = 2**31 - 1


class MegatronExporter(Exporter):
    """Every record is one sequence and one document; train with --data-path OUT/train.

    Loss masks and document ids have no place in this format; keys are in SPLIT.keys.jsonl.
    """

    name = "megatron"
    takes_codes = False

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        self._file = target.open(f"{split}.bin")
        self._keys = target.open_keys(split)
        self._lengths = array("i")  # four bytes a sequence, not an object

    @classmethod
    def choose_dtype(cls, vocab_size: int) -> np.dtype:
        if vocab_size > LARGEST:
            raise CodeRangeError(
                f"megatron stores ids as int32 at most; the vocabulary has {vocab_size:,} ids."
            )
        return np.dtype(np.uint16 if vocab_size < UINT16_BELOW else np.int32)

    def add(self, record: Record) -> None:
        if not record.ids.size or len(self._lengths) >= LARGEST:
            raise InputError("megatron holds sequences of at least one id, at most 2^31 - 1.")
        ids = self.cast(record)
        self._file.write(ids.astype(ids.dtype.newbyteorder("<")).tobytes())
        self._lengths.append(ids.size)
        self._keys.add(record)

    def close(self) -> None:
        self._file.close()
        lengths = np.asarray(self._lengths, "<i4")
        ends = np.cumsum(lengths.astype(np.int64)) * self.dtype.itemsize
        pointers = np.concatenate([[0], ends])[: lengths.size]
        documents = np.arange(lengths.size + 1)
        with open(self.target.folder / f"{self.split}.idx", "wb") as file:
            file.write(MAGIC)
            file.write(struct.pack("<QB", VERSION, TYPE_NUMBERS[self.dtype]))
            file.write(struct.pack("<QQ", lengths.size, documents.size))
            file.write(lengths.tobytes())
            file.write(pointers.astype("<i8").tobytes())
            file.write(documents.astype("<i8").tobytes())
