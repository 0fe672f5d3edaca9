"""nanoGPT's files: train.bin and val.bin, headerless uint16, and meta.pkl with the vocab_size.

What nanoGPT's sample.py prints are ids, separated by spaces: `SequenceLayout.decode` reads them.
"""

import pickle

import numpy as np

from vqtok.layout.export.base import Exporter, Record, Target, uint16_or_refuse


class NanoGPTExporter(Exporter):
    """All ids of a split in one stream, as nanoGPT's data/*/prepare.py writes them.

    nanoGPT cuts windows anywhere, so sequences should begin with a special of their own. Loss
    masks and document ids have no place in this format; keys are in SPLIT.keys.jsonl.
    """

    name = "nanogpt"
    takes_codes = False
    default_val_fraction = 0.1

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        self._file = target.open(f"{split}.bin")
        self._keys = target.open_keys(split)

    @classmethod
    def choose_dtype(cls, vocab_size: int) -> np.dtype:
        return uint16_or_refuse(cls.name, vocab_size)

    def add(self, record: Record) -> None:
        self._file.write(self.cast(record).astype("<u2").tobytes())
        self._keys.add(record)

    def close(self) -> None:
        self._file.close()
        size, begin = self.target.vocab_size, self.target.begin
        # what its sample.py looks up: a prompt that is a line end is <bos>, an id is its number
        words = {"stoi": {"\n": begin or 0}, "itos": {i: f"{i} " for i in range(size)}}
        with open(self.target.folder / "meta.pkl", "wb") as file:
            pickle.dump({"vocab_size": size} | words, file)
