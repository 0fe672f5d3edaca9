"""Where inputs come from: `Source.list()` says what there is, `Source.read(unit)` gives raw inputs.

A source never decodes. It lists its files in one fixed order, so that a plan of numbered slices
means the same on every run. A new kind of source is a subclass in a file of its own and a line in
`KINDS`.
"""

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa

from vqtok.data.files import Files, LocalFiles, RemoteFiles, of_split, split_url
from vqtok.data.modalities import modality_of
from vqtok.errors import ConfigError, InputError

# suffixes of files that hold many inputs -> who reads them
TABLES = ("vqtok.data.tables", "TableSource")
TARS = ("vqtok.data.tars", "TarSource")
LINES = ("vqtok.data.lines", "LineSource")
KINDS = {
    **dict.fromkeys((".parquet", ".arrow"), TABLES),
    **dict.fromkeys((".tar",), TARS),
    **dict.fromkeys((".jsonl", ".ndjson"), LINES),
}
# what `datasets` puts beside the files of a folder: it describes them
DESCRIPTIONS = frozenset({"metadata.jsonl"})
SUPPORTED = (
    "a folder of images, sounds, .txt texts or .npy and .npz vectors (or one such file); parquet, "
    "arrow, .jsonl or webdataset .tar files (or a folder of them); a URL of one of these that "
    "fsspec knows; or hf://datasets/NAME[:split]"
)


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
            size, etag = self.version(segment.uri)
            if (size, etag) != (segment.size, segment.etag):
                raise InputError(
                    f"{self.location}/{segment.uri} changed while it was being tokenized: planned "
                    f"with {segment.size} bytes, now {size} (modified in between). Start a new "
                    "run, or bring the old file back and use --resume."
                )
            yield from self.read_segment(segment)


class ScannedSource(Source):
    """Files of many inputs that are read from the front: the next unit goes on where one ended."""

    _cursor: tuple[str, int, Generator[RawSample, None, None]] | None = None

    @abstractmethod
    def scan(self, name: str, start: int) -> Generator[RawSample, None, None]:
        """The inputs of a file from row `start` on; the file is closed behind the last."""

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        name, start = segment.uri, segment.row_start
        if self._cursor is None or self._cursor[:2] != (name, start):
            self.close()
            self._cursor = (name, start, self.scan(name, start))
        samples = self._cursor[2]
        for index in range(start, start + segment.row_count):
            sample = next(samples)
            self._cursor = (name, index + 1, samples)
            yield sample

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor[2].close()
            self._cursor = None

    def __getstate__(self) -> dict:
        """To another process without the open file."""
        return self.__dict__ | {"_cursor": None}


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
        return [InputShard(name, *self.version(name), rows=1) for name in self.names]

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        data, error = None, None
        try:
            data = self.files.read(segment.uri, segment.size)
        except InputError as unreadable:
            error = unreadable
        yield RawSample(data, key=segment.uri, src=segment.uri, src_row=0, error=error)


def open_source(
    source: Any,
    modality: str = "image",
    column: str | None = None,
    keep: Sequence[str] = (),
    split: str | None = None,
) -> Source:
    """Turn SOURCE into a `Source`.

    Args:
        source: a folder (searched recursively), one file, a URL of one of these, a name
            hf://datasets/NAME[:split], a `datasets.Dataset`, or a ready `Source`.
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
    files, found, what = find_files(source)
    split = split or split_url(str(source))[1]
    named = [name for name in found if split is None or of_split(name, split)]
    if found and not named:
        raise InputError(f"none of the {len(found)} files of {what} belongs to a split {split!r}.")
    kind, names = sort_names(named, suffixes, modality, what)
    check_names(names)
    choice = Choice(modality, column, tuple(keep), len(found) - len(names))
    module, name = kind
    return getattr(importlib.import_module(module), name)(files, names, choice)


def find_files(source: str | os.PathLike) -> tuple[Files, list[str], str]:
    """The files of SOURCE: their root, their names, and what to call it in an error."""
    text = str(source)
    if "://" in text:
        url, _ = split_url(text)
        files = RemoteFiles(url)
        if files.is_file():
            parent, _, name = url.rpartition("/")
            return RemoteFiles(parent), [name], url
        found = list(files.names())
        if not found:
            raise InputError(f"there are no files under {url}; SOURCE is {SUPPORTED}.")
        return files, found, url
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path} does not exist; SOURCE is {SUPPORTED}.")
    if path.is_dir():
        local = LocalFiles(path)
        return local, list(local.names()), text
    return LocalFiles(path.parent), [path.name], text


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
        suffix, last = PurePath(name.lower()).suffix, name.rpartition("/")[2]
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if suffix in KINDS and (last not in DESCRIPTIONS or len(found) == 1):
            kinds.setdefault(KINDS[suffix], []).append(name)
        elif suffix in suffixes:
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


def holds_many(name: PurePath) -> bool:
    """Whether a file of this name holds many inputs, not one."""
    return name.suffix.lower() in KINDS
