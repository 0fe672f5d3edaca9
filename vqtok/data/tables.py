"""Parquet and arrow files in the Hugging Face layout, read a slice of rows at a time."""

import contextlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from vqtok.data.files import Files, read_beside
from vqtok.data.modalities import holds_vectors, modality_of
from vqtok.data.scanned import Cursor, ScannedSource
from vqtok.data.sources import Choice, RawSample
from vqtok.errors import ConfigError, InputError

READ_ROWS = 64  # rows held at once


class TableSource(ScannedSource):
    """Rows of tables whose `column` holds bytes, {bytes, path}, strings or lists of floats."""

    kind = "tables"
    starts_anywhere = True

    def __init__(self, files: Files, names: Sequence[str], choice: Choice):
        super().__init__(files, names, choice)
        self._heads = {self.names[0]: read_head(files, self.names[0])}
        first, _ = self._heads[self.names[0]]
        self.column = find_column(first, choice.column, choice.modality, self.names[0])
        self.kept_fields = kept_fields(first, choice.keep, self.names[0])

    def count(self, name: str) -> int:
        schema, rows = self._heads.pop(name, None) or read_head(self.files, name)
        self._check_schema(schema, name)
        return rows

    def _check_schema(self, schema: pa.Schema, name: str) -> None:
        find_column(schema, self.column, self.modality, name)
        for field in self.kept_fields:
            if field.name not in schema.names or schema.field(field.name).type != field.type:
                raise ConfigError(
                    f"column {field.name!r} is {field.type} in {self.names[0]}, but "
                    f"{name} has it as another type or not at all; it cannot be kept."
                )

    def scan(self, cursor: Cursor) -> Generator[RawSample, None, None]:
        columns = list(dict.fromkeys([self.column, *(f.name for f in self.kept_fields)]))
        name = cursor.name
        rows = iterate_rows(self.files, name, cursor.row, columns)
        with contextlib.closing(rows):
            for index, row in enumerate(rows, cursor.row):
                sample = sample_of(row, self.column, self.kept_fields, name, index)
                yield with_path_read(sample, row[self.column], self._read_path)

    def _read_path(self, name: str, path: str) -> bytes:
        return read_beside(self.files, name, path)


def sample_of(row: dict, column: str, kept: Sequence[pa.Field], name: str, index: int) -> RawSample:
    """One row of a table as an input."""
    cell, error = row[column], None
    data = cell["bytes"] if isinstance(cell, dict) else cell
    if data is None:
        error = InputError(f"column {column!r} holds a null and no input", "empty")
    values = {field.name: row[field.name] for field in kept}
    return RawSample(data, key=None, src=name, src_row=index, kept=values, error=error)


def with_path_read(
    sample: RawSample, cell: dict | None, read: Callable[[str, str], bytes]
) -> RawSample:
    """A sample with the file that its cell {bytes, path} only names."""
    path = cell.get("path") if isinstance(cell, dict) else None
    if sample.data is None and path:
        try:
            sample.data, sample.error = read(sample.src, path), None
        except InputError as error:
            sample.error = InputError(f"the row has only a path and no bytes: {error}", "empty")
    return sample


def read_head(files: Files, name: str) -> tuple[pa.Schema, int]:
    """The columns of a table, and its number of rows."""
    try:
        with files.open(name) as file:
            if is_parquet(name):
                with pq.ParquetFile(file) as parquet:
                    return parquet.schema_arrow, parquet.metadata.num_rows
            schema = _open_arrow(file).schema
            file.seek(0)
            return schema, sum(batch.num_rows for batch in _arrow_batches(file))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{files.location}/{name} cannot be read as a table: {error}") from error


def is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def find_column(schema: pa.Schema, column: str | None, modality: str, name: str) -> str:
    """The column with the inputs: the one asked for, one with a usual name, or the only one."""
    kind = modality_of(modality)
    fitting = [field.name for field in schema if kind.holds(field.type)]
    if column is not None and column in fitting:
        return column
    if column is None:
        usual = [name for name in kind.columns if name in fitting]
        if usual or len(fitting) == 1:
            return (usual or fitting)[0]
    wanted = f"a column {column!r}" if column else f"one column of {modality} inputs"
    raise InputError(
        f"{name} should have {wanted} ({kind.cell}); it has "
        f"{[f'{field.name}: {field.type}' for field in schema]}. Name the column with --column."
    )


def kept_fields(schema: pa.Schema, keep: tuple[str, ...], file: str) -> tuple[pa.Field, ...]:
    """Arrow fields of the columns to keep; their Hugging Face feature goes along as metadata."""
    missing = [name for name in keep if name not in schema.names]
    if missing:
        raise ConfigError(f"{file} has no column {missing} to keep; it has {schema.names}.")
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = features.get("info", {}).get("features", {})
    fields = []
    for name in dict.fromkeys(keep):
        field = schema.field(name).remove_metadata()
        if name in features:
            field = field.with_metadata({b"feature": json.dumps(features[name]).encode()})
        fields.append(field)
    return tuple(fields)


def iterate_rows(
    files: Files, name: str, start: int, columns: list[str]
) -> Generator[dict, None, None]:
    """Rows of a table as dicts, from row `start` on, never more than a few held at once."""
    with files.open(name) as file:
        if is_parquet(name):
            batches = _parquet_batches(file, start, columns)
        else:
            batches = (batch.select(columns) for batch in _arrow_batches(file))
            batches = _skip(batches, start)
        for batch in _whole(batches, f"{files.location}/{name}"):
            for offset in range(0, batch.num_rows, READ_ROWS):
                yield from rows_of(batch.slice(offset, READ_ROWS))


def _whole(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[pa.RecordBatch]:
    """The batches; damage is an error of the run, since nobody knows how many rows it took."""
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name} cannot be read as a table: {error}") from error


def rows_of(batch: pa.RecordBatch) -> Iterator[dict]:
    """Rows as dicts; a list of floats is an array, not a Python object per number."""
    columns = [
        # a copy, since torch warns of memory that it must not write
        [np.array(cell.values) if cell.is_valid else None for cell in column]
        if holds_vectors(column.type)
        else column.to_pylist()
        for column in batch.columns
    ]
    names = batch.schema.names
    yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _parquet_batches(opened: BinaryIO, start: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20) as file:
        first, groups = 0, []
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < first + rows:
                groups = list(range(group, file.num_row_groups))
                break
            first += rows
        batches = file.iter_batches(
            batch_size=READ_ROWS, row_groups=groups, columns=columns, use_threads=False
        )
        yield from _skip(batches, start - first)


def _skip(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if rows < batch.num_rows:
            yield batch.slice(rows)
        rows = max(0, rows - batch.num_rows)


def _open_arrow(file: BinaryIO) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    # datasets writes the stream form, most other tools the file form
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    return pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)


def _arrow_batches(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    reader = _open_arrow(file)
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from reader
