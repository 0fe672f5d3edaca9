"""JSON lines, gzipped or not: every line that is not blank is one input.

    text       {"text": "To be, or not to be"}
    embedding  {"embedding": [0.25, -1.5]}
    image      {"image": "photos/1.jpg"}, a path relative to the .jsonl file; the same for sounds
               {"image": "data:image/png;base64,iVBOR..."} or {"image": {"bytes": "iVBOR..."}}

Kept fields are strings: a string as it is, anything else as JSON. A line that is not a JSON object
is a row that says so. The version of a file that a path names is not part of the plan.
"""

import base64
import contextlib
import json
import zlib
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vqtok.data.files import Files, read_beside
from vqtok.data.modalities import modality_of
from vqtok.data.scanned import Cursor, ScannedSource, opened
from vqtok.data.sources import Choice, RawSample
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

    def count(self, name: str) -> int:
        return sum(1 for _ in self._lines(name))

    def scan(self, cursor: Cursor) -> Generator[RawSample | None, None, None]:
        with contextlib.closing(self._lines(cursor.name)) as lines:
            for row, line in enumerate(lines):
                yield self._sample(line, cursor.name, row) if row >= cursor.wanted else None

    def _lines(self, name: str) -> Generator[bytes, None, None]:
        try:
            with opened(self.files, name) as file:
                yield from (line for line in file if line.strip())
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(
                f"{self.location}/{name} cannot be read to its end: {error}. Is it whole?"
            ) from error

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
        if self.modality != "text" and (packed := embedded(value)) is not None:
            return packed
        if isinstance(value, dict) and self.modality != "text":
            value = value.get("path")
        if not isinstance(value, str):
            raise InputError(f"{found[0]!r} should be a string; it is a {type(value).__name__}.")
        if self.modality == "text":
            return value
        return read_beside(self.files, name, value)


def embedded(value: Any) -> bytes | None:
    """The bytes that a value holds as base64; None if it names a file.

    Raises:
        InputError: not base64.
    """
    text = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, str):
        head, comma, text = value.partition(",")
        if not comma or not head.startswith("data:") or not head.endswith(";base64"):
            return None
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InputError(f"not base64: {error}") from error


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
