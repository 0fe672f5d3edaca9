"""Parquet that `datasets.load_dataset(folder)` reads: input_ids and labels, or codes and shape."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vqtok.layout.export.base import Exporter, Record, Target, key_text
from vqtok.layout.sequence import labels_of

BATCH_IDS = 1 << 20  # ids in a row group
FILE_IDS = 1 << 28  # ids in a file


class HuggingFaceExporter(Exporter):
    """data/SPLIT-00000-of-00001.parquet, with the columns

    key, input_ids, labels (-100 where nothing is to be learned), and of packed rows position_ids
    and document_ids; of plain codes key, codes (flat, C order) and shape. The key of several rows
    is a JSON list.
    """

    name = "hf"

    def __init__(self, target: Target, split: str):
        super().__init__(target, split)
        self._data = target.folder / "data"
        self._data.mkdir(exist_ok=True)
        self._rows: list[dict[str, object]] = []
        self._pending, self._in_file = 0, 0
        self._writer: pq.ParquetWriter | None = None
        self._files = 0

    def add(self, record: Record) -> None:
        ids = self.cast(record)
        row: dict[str, object] = {"key": key_text(record)}
        if record.shape is not None:
            row |= {"codes": ids, "shape": np.asarray(record.shape, np.int32)}
        else:
            learned = np.ones(ids.size, bool) if record.loss_mask is None else record.loss_mask
            labels = labels_of(ids, learned)
            row |= {"input_ids": ids, "labels": labels}
        if record.position_ids is not None:
            row |= {"position_ids": record.position_ids, "document_ids": record.document_ids}
        self._rows.append(row)
        self._pending += ids.size
        if self._pending >= BATCH_IDS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._end_file()
        for index in range(self._files):
            final = f"{self.split}-{index:05d}-of-{self._files:05d}.parquet"
            self._path(index).rename(self._data / final)

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = {name: _column([row[name] for row in self._rows]) for name in self._rows[0]}
        table = pa.table(columns)
        if self._writer is None:
            writer = pq.ParquetWriter(self._path(self._files), table.schema, compression="zstd")
            self._writer = self.target.files.enter_context(writer)
            self._files += 1
        self._writer.write_table(table)
        self._in_file += self._pending
        self._rows, self._pending = [], 0
        if self._in_file >= FILE_IDS:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._in_file = None, 0

    def _path(self, index: int):
        return self._data / f"{self.split}-{index:05d}.writing"


def _column(values: list) -> pa.Array:
    if not isinstance(values[0], np.ndarray):
        return pa.array(values)
    offsets = np.cumsum([0, *(value.size for value in values)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))
