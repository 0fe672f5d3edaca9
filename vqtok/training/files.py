"""The files of a training source: a folder, a parquet file, or one file, as `vqtok tokenize` lists.

Searched in the order of their names, hidden ones left out, links followed.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vqtok.errors import ConfigError, InputError

Encoded = Path | dict[str, Any]  # a file, or its bytes and what to call it


def find_files(source: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Every file with one of the lower-case suffixes, in the order of the names.

    Raises:
        ConfigError: there is nothing at `source`.
    """
    if not source.exists():
        raise ConfigError(f"the source {source} does not exist.")
    for file in sorted(_walk(source)):
        if file.suffix.lower() in suffixes:
            yield file


def find_items(source: Path, suffixes: Collection[str], column: str) -> Iterator[Encoded]:
    """Every file with one of the suffixes, and every row of the parquet files among them.

    Args:
        source: a folder, a parquet file or a file.
        suffixes: of the files to take, lower case.
        column: the parquet column, a struct with `bytes` and `path`, or plain bytes.

    Raises:
        ConfigError: there is nothing at `source`, or a parquet file lacks the column.
        InputError: a row holds neither bytes nor a path.
    """
    for file in find_files(source, {*suffixes, ".parquet"}):
        if file.suffix.lower() == ".parquet":
            yield from _rows(file, column)
        else:
            yield file


def parquet_batches(file: Path, column: str, rows: int = 64) -> Iterator[Any]:
    """The column of a parquet file as pyarrow arrays of so many rows.

    Raises:
        ConfigError: the file lacks the column.
    """
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    if column not in parquet.schema_arrow.names:
        raise ConfigError(
            f"{file} has the columns {parquet.schema_arrow.names}, but not {column!r}: "
            "name the column with data.column."
        )
    for batch in parquet.iter_batches(batch_size=rows, columns=[column]):
        yield batch.column(0)


def _walk(path: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """The file, or those of a folder; links followed, back to a folder above not; none hidden."""
    if not path.is_dir():
        yield from [path] if path.is_file() and not path.name.startswith(".") else []
    elif (real := os.path.realpath(path)) not in above:
        for entry in path.iterdir():
            if not entry.name.startswith("."):
                yield from _walk(entry, (*above, real))


def _rows(file: Path, column: str) -> Iterator[Encoded]:
    row = 0
    for batch in parquet_batches(file, column):
        for value in batch.to_pylist():
            name = f"{file}, row {row}"
            row += 1
            if isinstance(value, dict):
                data = value.get("bytes")
                if data is None and value.get("path"):
                    data = file.parent / value["path"]
            else:
                data = value
            if not isinstance(data, bytes | Path):
                raise InputError(f"{name} holds neither bytes nor a path.", "empty")
            yield data if isinstance(data, Path) else {"bytes": data, "path": name}
