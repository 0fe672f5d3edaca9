"""nanoGPT's files: train.bin and val.bin, headerless uint16, and meta.pkl with the vocab_size."""

import pickle

import numpy as np

from vqtok.layout.export.base import Exporter, Record, Target, uint16_or_refuse


class NanoGPTExporter(Exporter):
    """All ids of a split in one stream, as nanoGPT's data/*/prepare.py writes them.

    nanoGPT cuts windows anywhere, so sequences should begin with a special of their own. Loss
    masks and document ids have no place in this format.
    """

    name = "nanogpt"
    takes_codes = False
    default_val_fraction = 0.1

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        self._file = target.open(f"{split}.bin")

    @classmethod
    def choose_dtype(cls, vocab_size: int) -> np.dtype:
        return uint16_or_refuse(cls.name, vocab_size)

    def add(self, record: Record) -> None:
        self._file.write(self.cast(record).astype("<u2").tobytes())

    def close(self) -> None:
        self._file.close()
        with open(self.target.folder / "meta.pkl", "wb") as file:
            pickle.dump({"vocab_size": self.target.vocab_size}, file)
