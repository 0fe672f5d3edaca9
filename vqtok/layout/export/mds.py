"""MDS shards of MosaicML Streaming: SPLIT/shard.00000.mds and SPLIT/index.json.

Source: streaming/base/format/mds of mosaicml-streaming 0.13. A shard is the number of samples and
their offsets (uint32), the columns as JSON, then the samples: the sizes of their columns (uint32),
then the columns. Written here rather than by MDSWriter, whose __exit__ gives a run that broke off
a valid index.
"""

import hashlib
import json

import numpy as np

from vqtok.errors import InputError
from vqtok.layout.export.base import Exporter, Record, Target, key_text

SHARD_BYTES = 1 << 26
SHAPE_TYPES = (np.uint8, np.uint16, np.uint32)


class MDSExporter(Exporter):
    """Columns key, input_ids (of codes: codes, in their shape), and what else the records have.

    The key of several rows is a JSON list.
    """

    name = "mds"

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        self._samples: list[bytes] = []
        self._bytes = 0
        self._shards: list[dict[str, object]] = []
        self._columns: dict[str, str] = {}

    def add(self, record: Record) -> None:
        fields = self._fields(record)
        encodings = {name: _encoding(value) for name, value in sorted(fields.items())}
        self._columns = self._columns or encodings
        if encodings != self._columns:
            raise InputError(
                f"one MDS set holds rows of one kind: {self._columns}; got {encodings}."
            )
        data = [_encode(fields[name]) for name in encodings]
        sample = np.array([len(part) for part in data], "<u4").tobytes() + b"".join(data)
        if self._samples and self._bytes + len(sample) + 4 > SHARD_BYTES:
            self._end_shard()
        self._samples.append(sample)
        self._bytes += len(sample) + 4

    def close(self) -> None:
        if self._samples:
            self._end_shard()
        index = json.dumps({"shards": self._shards, "version": 2}, sort_keys=True)
        (self.folder / "index.json").write_text(index, encoding="utf-8")

    def _fields(self, record: Record) -> dict[str, object]:
        ids = self.cast(record)
        fields: dict[str, object] = {"key": key_text(record)}
        if record.shape is not None:
            return fields | {"codes": ids.reshape(record.shape)}
        fields["input_ids"] = ids
        if record.loss_mask is not None:
            fields["loss_mask"] = record.loss_mask.astype(np.uint8)
        if record.document_ids is not None:
            fields["document_ids"] = record.document_ids
            fields["position_ids"] = record.position_ids
        return fields

    def _end_shard(self) -> None:
        about = {
            "column_encodings": list(self._columns.values()),
            "column_names": list(self._columns),
            "column_sizes": [None] * len(self._columns),
            "compression": None,
            "format": "mds",
            "hashes": ["sha1"],
            "size_limit": SHARD_BYTES,
            "version": 2,
        }
        config = json.dumps(about, sort_keys=True).encode()
        sizes = [len(sample) for sample in self._samples]
        offsets = np.cumsum([0, *sizes]) + 4 + 4 * (len(sizes) + 1) + len(config)
        head = np.uint32(len(sizes)).tobytes() + offsets.astype("<u4").tobytes()
        data = b"".join([head, config, *self._samples])
        name = f"shard.{len(self._shards):05d}.mds"
        (self.folder / name).write_bytes(data)
        hashes = {"sha1": hashlib.sha1(data).hexdigest()}
        raw = {"basename": name, "bytes": len(data), "hashes": hashes}
        self._shards.append(about | {"raw_data": raw, "samples": len(sizes), "zip_data": None})
        self._samples, self._bytes = [], 0


def _encoding(value: object) -> str:
    return "str" if isinstance(value, str) else f"ndarray:{value.dtype.name}"


def _encode(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    kind = next(i for i, kind in enumerate(SHAPE_TYPES) if max(value.shape) <= np.iinfo(kind).max)
    shape = np.asarray(value.shape, SHAPE_TYPES[kind])
    return bytes([value.ndim << 2 | kind]) + shape.tobytes() + value.tobytes()
