"""Parquet and arrow files in the Hugging Face layout, read a slice of rows at a time."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from vqtok.data.sources import InputShard, RawSample, Segment, Source, file_version
from vqtok.errors import ConfigError, InputError

READ_ROWS = 64  # rows held at once


class TableSource(Source):
    """Rows of tables whose `column` holds raw bytes: binary, or a struct {bytes, path}."""

    kind = "tables"

    def __init__(
        self,
        root: Path,
        names: list[str],
        modality: str,
        column: str | None = None,
        keep: tuple[str, ...] = (),
        ignored: int = 0,
    ):
        self.root = root
        self.names = sorted(names)
        self.ignored = ignored
        first = read_schema(root / self.names[0])
        self.column = find_column(first, column, modality, root / self.names[0])
        self.kept_fields = kept_fields(first, keep, root / self.names[0])
        # where the last unit stopped, so that the next one does not read its row group again
        self._cursor: tuple[str, int, Iterator[dict]] | None = None

    def list(self) -> list[InputShard]:
        shards = []
        for name in self.names:
            path = self.root / name
            self._check_schema(path)
            shards.append(InputShard(name, *file_version(path), rows=count_rows(path)))
        return shards

    def _check_schema(self, path: Path) -> None:
        schema = read_schema(path)
        find_column(schema, self.column, "", path)
        for field in self.kept_fields:
            if field.name not in schema.names or schema.field(field.name).type != field.type:
                raise ConfigError(
                    f"column {field.name!r} is {field.type} in {self.names[0]}, but "
                    f"{path} has it as another type or not at all; it cannot be kept."
                )

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        name, start = segment.uri, segment.row_start
        if self._cursor is None or self._cursor[:2] != (name, start):
            columns = list(dict.fromkeys([self.column, *(f.name for f in self.kept_fields)]))
            self._cursor = (name, start, iterate_rows(self.root / name, start, columns))
        rows = self._cursor[2]
        for index in range(start, start + segment.row_count):
            row = next(rows)
            self._cursor = (name, index + 1, rows)
            yield self._sample(row, name, index)

    def _sample(self, row: dict, name: str, index: int) -> RawSample:
        cell, error = row[self.column], None
        data = cell["bytes"] if isinstance(cell, dict) else cell
        if data is None:
            path = cell.get("path") if isinstance(cell, dict) else None
            told = f"only a path, {path!r}" if path else "a null"
            error = InputError(f"column {self.column!r} holds {told} and no bytes", "empty")
        kept = {field.name: row[field.name] for field in self.kept_fields}
        return RawSample(data, key=None, src=name, src_row=index, kept=kept, error=error)


def read_schema(path: Path) -> pa.Schema:
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_schema(path)
        return _open_arrow(path).schema
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error


def count_rows(path: Path) -> int:
    if path.suffix.lower() == ".parquet":
        return pq.read_metadata(path).num_rows
    return sum(batch.num_rows for batch in _arrow_batches(path))


def find_column(schema: pa.Schema, column: str | None, modality: str, path: Path) -> str:
    """The column with the inputs: the one asked for, the modality's name, or the only one."""
    holds_bytes = [field.name for field in schema if _holds_bytes(field.type)]
    if column is None and modality in holds_bytes:
        return modality
    if column is None and len(holds_bytes) == 1:
        return holds_bytes[0]
    if column in holds_bytes:
        return column
    wanted = f"a column {column!r}" if column else f"one column of {modality} bytes"
    raise InputError(
        f"{path} should have {wanted} (binary, or a struct with a binary field 'bytes'); it has "
        f"{[f'{field.name}: {field.type}' for field in schema]}. Name the column with --column."
    )


def kept_fields(schema: pa.Schema, keep: tuple[str, ...], path: Path) -> tuple[pa.Field, ...]:
    """Arrow fields of the columns to keep; their Hugging Face feature goes along as metadata."""
    missing = [name for name in keep if name not in schema.names]
    if missing:
        raise ConfigError(f"{path} has no column {missing} to keep; it has {schema.names}.")
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = features.get("info", {}).get("features", {})
    fields = []
    for name in dict.fromkeys(keep):
        field = schema.field(name).remove_metadata()
        if name in features:
            field = field.with_metadata({b"feature": json.dumps(features[name]).encode()})
        fields.append(field)
    return tuple(fields)


def iterate_rows(path: Path, start: int, columns: list[str]) -> Iterator[dict]:
    """Rows of a table as dicts, from row `start` on, never more than a few held at once."""
    if path.suffix.lower() == ".parquet":
        batches = _parquet_batches(path, start, columns)
    else:
        batches = (batch.select(columns) for batch in _arrow_batches(path))
        batches = _skip(batches, start)
    for batch in batches:
        for offset in range(0, batch.num_rows, READ_ROWS):
            yield from batch.slice(offset, READ_ROWS).to_pylist()


def _parquet_batches(path: Path, start: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        first, groups = 0, []
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < first + rows:
                groups = list(range(group, file.num_row_groups))
                break
            first += rows
        batches = file.iter_batches(batch_size=READ_ROWS, row_groups=groups, columns=columns)
        yield from _skip(batches, start - first)


def _skip(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if rows < batch.num_rows:
            yield batch.slice(rows)
        rows = max(0, rows - batch.num_rows)


def _open_arrow(path: Path) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    # datasets writes the stream form, most other tools the file form
    with pa.OSFile(str(path)) as head:
        is_file = head.read(6) == b"ARROW1"
    memory = pa.memory_map(str(path))
    return pa.ipc.open_file(memory) if is_file else pa.ipc.open_stream(memory)


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    reader = _open_arrow(path)
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from reader


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
