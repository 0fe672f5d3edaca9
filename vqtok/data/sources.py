"""Where inputs come from: `Source.list()` says what there is, `Source.read(unit)` gives raw inputs.

A source never decodes. It lists its files in one fixed order, so that a plan of numbered slices
means the same on every run. A new kind of source is a subclass in a file of its own and a line in
`KINDS`.
"""

import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa

from vqtok.data.ahead import ahead
from vqtok.data.files import Files
from vqtok.data.finding import SUPPORTED, find_files
from vqtok.data.modalities import modality_of
from vqtok.errors import ConfigError, InputError

# endings of files that hold many inputs -> who reads them
TABLES = ("vqtok.data.tables", "TableSource")
TARS = ("vqtok.data.tars", "TarSource")
LINES = ("vqtok.data.lines", "LineSource")
KINDS = {
    **dict.fromkeys((".parquet", ".arrow"), TABLES),
    **dict.fromkeys((".tar", ".tar.gz", ".tgz"), TARS),
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"), LINES),
}
# files that would hold inputs if they were unpacked
PACKED = re.compile(
    r"\.(tar|jsonl|ndjson|parquet|arrow)\.(zst|zstd|bz2|xz|lz4|br)$|\.(tbz2?|txz|tzst)$"
    r"|\.(parquet|arrow)\.gz$"
)
# what `datasets` puts beside the files of a folder: it describes them
DESCRIPTIONS = frozenset({"metadata.jsonl"})


@dataclass(frozen=True)
class InputShard:
    """One file of a source: name relative to the source, bytes, version, number of inputs."""

    uri: str
    size: int
    etag: str
    rows: int


@dataclass(frozen=True)
class Segment:
    """`row_count` inputs of one file, from `row_start`; `size` and `etag` as they were planned."""

    uri: str
    size: int
    etag: str
    row_start: int
    row_count: int


@dataclass
class RawSample:
    """One undecoded input.

    Attributes:
        data: the raw bytes, the string or the vector; None when `error` says why there is none.
        key: the source's own name for the input, or None.
        src: file name relative to the source.
        src_row: row in that file (0 for a file that is one input).
        kept: values of the kept columns.
    """

    data: bytes | str | np.ndarray | None
    key: str | None
    src: str
    src_row: int
    kept: dict = field(default_factory=dict)
    error: InputError | None = None


@dataclass(frozen=True)
class Choice:
    """What the caller says of a source.

    Attributes:
        modality: what the tokenizer takes.
        column: the column, array or member with the inputs; None: found by name and type.
        keep: columns to carry along into the codes.
        ignored: files found that are not inputs.
    """

    modality: str
    column: str | None = None
    keep: tuple[str, ...] = ()
    ignored: int = 0


class Source(ABC):
    """A fixed, ordered list of inputs.

    Args:
        files: what the names are relative to.
        names: the files, in any order.
        choice: what the caller says of them.

    Attributes:
        kind: one word for run.json.
        kept_fields: arrow fields of the columns to carry along.
    """

    kind = "source"
    kept_fields: tuple[pa.Field, ...] = ()

    def __init__(self, files: Files, names: Sequence[str], choice: Choice):
        self.files, self.names = files, sorted(names)
        self.modality, self.ignored = choice.modality, choice.ignored

    @property
    def location(self) -> str:
        """Where the source is, for run.json."""
        return self.files.location

    @abstractmethod
    def list(self) -> list[InputShard]:
        """Every file, in the order of the rows it will become."""

    @abstractmethod
    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        """The inputs of one slice of one file, in order."""

    def version(self, uri: str) -> tuple[int, str]:
        """(bytes, version word) of a file."""
        return self.files.version(uri)

    def close(self) -> None:
        """Let go of what reading holds open; reading may go on afterwards."""
        return

    def read(self, segments: Sequence[Segment]) -> Iterator[RawSample]:
        """The inputs of a unit, in order; a file that changed since it was planned is an error."""
        for segment in segments:
            self.check(segment)
            yield from self.read_segment(segment)

    def check(self, segment: Segment) -> None:
        """Raise InputError unless the file is still the one that was planned."""
        self.files.check(segment.uri, segment.size, segment.etag)


class FileSource(Source):
    """Files that are one input each, in the order of their names."""

    kind = "files"

    def __init__(self, files: Files, names: Sequence[str], choice: Choice):
        if choice.column is not None or choice.keep:
            raise ConfigError(
                f"--column and --keep name columns of tables; {files.location} holds plain files, "
                "which have none."
            )
        super().__init__(files, names, choice)

    def list(self) -> list[InputShard]:
        return list(ahead(self._shard, self.names, self.files.at_once))

    def _shard(self, name: str) -> InputShard:
        return InputShard(name, *self.version(name), rows=1)

    def read(self, segments: Sequence[Segment]) -> Iterator[RawSample]:
        """The inputs of a unit, in order; over a network several are fetched at once."""
        yield from ahead(self._sample, segments, self.files.at_once, lambda part: part.size)

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        yield self._sample(segment)

    def _sample(self, segment: Segment) -> RawSample:
        name = segment.uri
        data, error = self.files.read_planned(name, segment.size, segment.etag)
        return RawSample(data, key=name, src=name, src_row=0, error=error)


def open_source(
    source: Any,
    modality: str = "image",
    column: str | None = None,
    keep: Sequence[str] = (),
    split: str | None = None,
) -> Source:
    """Turn SOURCE into a `Source`.

    Args:
        source: a folder (searched recursively), one file, a pattern of files (`*.parquet`,
            `{000..999}.tar`), a URL of one of these, a name hf://datasets/NAME[:split], a
            `datasets.Dataset`, or a ready `Source`.
        modality: what the tokenizer takes; decides which files of a folder count.
        column: the column of a table (the array of a .npz file, the member of a tar) that holds
            the inputs; default: found by name and type.
        keep: columns of a table to carry along into the codes.
        split: only files whose names say that they belong to this split.

    Raises:
        InputError: nothing there to tokenize, or a kind of source that is not supported.
        ConfigError: options that this source cannot obey.
    """
    if isinstance(source, Source):
        return source
    choice = Choice(modality, column, tuple(keep))
    if not isinstance(source, (str, os.PathLike)):
        from vqtok.data.dataset_source import DatasetSource

        if split is not None:
            raise ConfigError("split chooses among files; select it from the dataset yourself.")
        return DatasetSource(source, choice)
    suffixes = modality_of(modality).suffixes
    files, found, what = find_files(source, split)
    kind, names = sort_names(found, suffixes, modality, what)
    check_names(names)
    choice = Choice(modality, column, tuple(keep), len(found) - len(names))
    module, name = kind
    return getattr(importlib.import_module(module), name)(files, names, choice)


def sort_names(
    found: Sequence[str], suffixes: frozenset[str], modality: str, what: str
) -> tuple[tuple[str, str], list[str]]:
    """Which source reads the files, and those of them that are inputs.

    Raises:
        InputError: none of them is, or they are of more than one kind.
    """
    plain = ("vqtok.data.arrays", "ArraySource") if modality == "embedding" else ("", "FileSource")
    plain = (plain[0] or __name__, plain[1])
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in found:
        last = name.rpartition("/")[2]
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if PACKED.search(last.lower()):
            raise InputError(
                f"{name} of {what} is compressed in a way that is not read: unpack it, or pack it "
                "again with gzip (.tar.gz, .jsonl.gz)."
            )
        kind = kind_of(last)
        if kind is not None and (last not in DESCRIPTIONS or len(found) == 1):
            kinds.setdefault(kind, []).append(name)
        elif PurePath(last.lower()).suffix in suffixes:
            kinds.setdefault(plain, []).append(name)
    if not kinds:
        which = (
            f"{what} is not" if len(found) == 1 else f"none of the {len(found)} files of {what} is"
        )
        raise InputError(
            f"{which} an input of a tokenizer of {modality} ({', '.join(sorted(suffixes))}); "
            f"SOURCE is {SUPPORTED}."
        )
    if len(kinds) > 1:
        examples = " and ".join(f"{names[0]}, ..." for names in kinds.values())
        raise InputError(
            f"{what} holds inputs of several kinds ({examples}): name one of them, a subfolder or "
            "a single file."
        )
    return next(iter(kinds.items()))


def check_names(names: Sequence[str]) -> None:
    """Raise InputError for a name that no row can hold."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"the name of {name!r} is not valid UTF-8, so no row can name it: rename the file."
            ) from None


def kind_of(name: str) -> tuple[str, str] | None:
    """Who reads a file of this name, if it holds many inputs."""
    endings = ("".join(PurePath(name.lower()).suffixes[-count:]) for count in (2, 1))
    return next((KINDS[ending] for ending in endings if ending in KINDS), None)


def holds_many(name: PurePath) -> bool:
    """Whether a file of this name holds many inputs, not one."""
    return kind_of(name.name) is not None
