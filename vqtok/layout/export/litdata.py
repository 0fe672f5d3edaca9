"""LitData chunks for its TokensLoader: SPLIT/chunk-0-N.bin and SPLIT/index.json.

Source: litdata 0.2.76, streaming/writer.py and item_loader.py. A chunk is the number of items and
their offsets (uint32), then the ids. TokensLoader cuts a chunk into blocks and drops what is left
over at its end, so every record here is exactly one block.

    StreamingDataset(folder, item_loader=TokensLoader(block_size=block_size))
"""

import json

import numpy as np

from vqtok.errors import ConfigError
from vqtok.layout.export.base import Exporter, Record, Target

CHUNK_BYTES = 1 << 26
# places in LitData's list of numpy types
TYPE_NUMBERS = {np.dtype(np.uint8): 4, np.dtype(np.uint16): 5, np.dtype(np.uint32): 6}
# LitData's own description of a sample that is one array
ONE_ARRAY = '[1, {"type": null, "context": null, "children_spec": []}]'


class LitDataExporter(Exporter):
    """Rows of block_size ids; loss masks and document ids have no place in this format.

    Keys are in SPLIT.keys.jsonl.
    """

    name = "litdata"
    takes_codes = False

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        if target.block_size is None:
            raise ConfigError(
                "litdata reads blocks of one length and drops what is left over: pass a packing "
                "and a block_size."
            )
        self._keys = target.open_keys(split)
        self._rows: list[bytes] = []
        self._chunks: list[dict[str, object]] = []

    def add(self, record: Record) -> None:
        self._rows.append(self.cast(record).tobytes())
        self._keys.add(record)
        if len(self._rows[0]) * len(self._rows) >= CHUNK_BYTES:
            self._end_chunk()

    def close(self) -> None:
        if self._rows:
            self._end_chunk()
        config = {
            "chunk_bytes": CHUNK_BYTES,
            "chunk_size": None,
            "compression": None,
            "data_format": [f"no_header_numpy:{TYPE_NUMBERS[self.dtype]}"],
            "data_spec": ONE_ARRAY,
            "encryption": None,
            "item_loader": "TokensLoader",
        }
        # LitData takes the time of writing as the version of the data; ours is its size
        content = {"chunks": self._chunks, "config": config, "updated_at": str(len(self._chunks))}
        (self.folder / "index.json").write_text(json.dumps(content), encoding="utf-8")

    def _end_chunk(self) -> None:
        count = len(self._rows)
        offsets = np.cumsum([0, *map(len, self._rows)]) + 4 + 4 * (count + 1)
        data = np.uint32(count).tobytes() + offsets.astype("<u4").tobytes() + b"".join(self._rows)
        name = f"chunk-0-{len(self._chunks)}.bin"
        (self.folder / name).write_bytes(data)
        chunk = {"chunk_bytes": len(data), "chunk_size": count, "filename": name}
        self._chunks.append(chunk | {"dim": count * self.target.block_size})
        self._rows = []
