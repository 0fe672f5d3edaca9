"""JSON lines: every line that is not blank is one input.

    text       {"text": "To be, or not to be"}
    embedding  {"embedding": [0.25, -1.5]}
    image      {"image": "photos/1.jpg"}, a path relative to the .jsonl file; the same for sounds

Kept fields are strings: a string as it is, anything else as JSON. A line that is not a JSON object
is a row that says so. The version of a file that a path names is not part of the plan.
"""

import contextlib
import json
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vqtok.data.files import Files
from vqtok.data.modalities import modality_of
from vqtok.data.sources import Choice, InputShard, RawSample, ScannedSource
from vqtok.errors import InputError

PATH_FIELDS = ("file_name", "path", "file")


class LineSource(ScannedSource):
    """Lines of files, file after file."""

    kind = "lines"

    def __init__(self, files: Files, names: Sequence[str], choice: Choice):
        super().__init__(files, names, choice)
        self.kept_fields = tuple(pa.field(name, pa.string()) for name in choice.keep)
        usual = modality_of(choice.modality).columns
        paths = () if choice.modality in ("text", "embedding") else PATH_FIELDS
        self.fields = (choice.column,) if choice.column else (*usual, *paths)

    def list(self) -> list[InputShard]:
        return [
            InputShard(name, *self.version(name), rows=sum(1 for _ in self._lines(name)))
            for name in self.names
        ]

    def scan(self, name: str, start: int) -> Generator[RawSample, None, None]:
        with contextlib.closing(self._lines(name)) as lines:
            for row, line in enumerate(lines):
                if row >= start:
                    yield self._sample(line, name, row)

    def _lines(self, name: str) -> Generator[bytes, None, None]:
        with self.files.open(name) as file:
            yield from (line for line in file if line.strip())

    def _sample(self, line: bytes, name: str, row: int) -> RawSample:
        sample = RawSample(None, None, name, row)
        sample.kept = dict.fromkeys(kept.name for kept in self.kept_fields)
        try:
            values = parse(line)
            for kept in sample.kept:
                value = values.get(kept)
                text = value if isinstance(value, str) or value is None else json.dumps(value)
                sample.kept[kept] = text
            sample.data = self._data(values, name)
        except InputError as error:
            sample.error = error
        return sample

    def _data(self, values: dict[str, Any], name: str) -> bytes | str | np.ndarray:
        found = [field for field in self.fields if values.get(field) is not None]
        if not found:
            raise InputError(
                f"the line has fields {sorted(values)[:10]}; one of {list(self.fields)} should "
                "hold the input (--column names another).",
                "empty",
            )
        value = values[found[0]]
        if self.modality == "embedding":
            return as_vector(value)
        if not isinstance(value, str):
            raise InputError(f"{found[0]!r} should be a string; it is a {type(value).__name__}.")
        if self.modality == "text":
            return value
        folder, _, _ = name.rpartition("/")
        path = f"{folder}/{value}" if folder else value
        return self.files.read(path, self.version(path)[0])


def parse(line: bytes) -> dict[str, Any]:
    """One line as a JSON object."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a line of JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"a line should be a JSON object; it is a {type(values).__name__}.")
    return values


def as_vector(value: Any) -> np.ndarray:
    """A list of numbers as an array [D]."""
    try:
        vector = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"not a list of numbers: {error}") from error
    if vector.ndim != 1:
        raise InputError(f"a vector is a list of numbers; its shape is {list(vector.shape)}.")
    return vector
