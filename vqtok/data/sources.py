"""Where inputs come from: `Source.list()` says what there is, `Source.read(unit)` gives raw bytes.

A source never decodes. It lists its files in one fixed order, so that a plan of numbered slices
means the same on every run; a new kind of source is a subclass here and a line in `open_source`.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from vqtok.errors import ConfigError, InputError

# what a file of a modality may be called; a file with another name is not an input
SUFFIXES = {
    "image": frozenset(
        f".{suffix}"
        for suffix in (
            *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff"),
            *("ppm", "pgm", "pbm", "pnm", "tga", "jp2", "avif", "heic", "heif"),
        )
    ),
}
TABLE_SUFFIXES = frozenset({".parquet", ".arrow"})
MAX_FILE_BYTES = 1 << 30  # a larger "image" is not read into memory at all
SUPPORTED = "a folder of images, one image, or parquet and arrow files (or a folder of them)"


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
        data: the raw bytes, or None when `error` says why there are none.
        key: the source's own name for the input, or None.
        src: file name relative to the source.
        src_row: row in that file (0 for a file that is one input).
        kept: values of the kept columns.
    """

    data: bytes | None
    key: str | None
    src: str
    src_row: int
    kept: dict = field(default_factory=dict)
    error: InputError | None = None

    @property
    def problem(self) -> InputError | None:
        """Why there is nothing to tokenize, if so."""
        if self.data is not None and len(self.data) == 0:
            return InputError("0 bytes", "empty")
        return self.error


class Source(ABC):
    """A fixed, ordered list of inputs.

    Attributes:
        kind: one word for run.json.
        root: folder that the names in `src` are relative to.
        kept_fields: arrow fields of the columns to carry along.
        ignored: files found that are not inputs of this source; known after `list`.
    """

    kind = "source"
    root: Path
    kept_fields: tuple[pa.Field, ...] = ()
    ignored: int = 0

    @abstractmethod
    def list(self) -> list[InputShard]:
        """Every file, in the order of the rows it will become."""

    @abstractmethod
    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        """The inputs of one slice of one file, in order."""

    def read(self, segments: Sequence[Segment]) -> Iterator[RawSample]:
        """The inputs of a unit, in order; a file that changed since it was planned is an error."""
        for segment in segments:
            size, etag = file_version(self.root / segment.uri)
            if (size, etag) != (segment.size, segment.etag):
                raise InputError(
                    f"{self.root / segment.uri} changed while it was being tokenized: planned "
                    f"with {segment.size} bytes, now {size} (modified in between). Start a new "
                    "run, or bring the old file back and use --resume."
                )
            yield from self.read_segment(segment)


class FileSource(Source):
    """Files that are one input each, in the order of their names."""

    kind = "files"

    def __init__(self, root: Path, names: Sequence[str], ignored: int = 0):
        self.root = root
        self.names = sorted(names)
        self.ignored = ignored

    def list(self) -> list[InputShard]:
        return [InputShard(name, *file_version(self.root / name), rows=1) for name in self.names]

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        path, data, error = self.root / segment.uri, None, None
        if is_dangling(path):
            error = InputError(f"a link to {os.readlink(path)}, which cannot be found")
        elif segment.size > MAX_FILE_BYTES:
            error = InputError(
                f"{segment.size} bytes; a file of at most {MAX_FILE_BYTES} is read", "too_large"
            )
        else:
            try:
                data = path.read_bytes()
            except PermissionError as denied:
                error = InputError(f"the file cannot be read: {denied.strerror}")
        yield RawSample(data, key=segment.uri, src=segment.uri, src_row=0, error=error)


def open_source(
    source: str | os.PathLike | Source,
    modality: str = "image",
    column: str | None = None,
    keep: Sequence[str] = (),
) -> Source:
    """Turn SOURCE into a `Source`.

    Args:
        source: a folder (searched recursively), one file, or a ready `Source`.
        modality: what the tokenizer takes; decides which files of a folder count.
        column: the column of a table that holds the inputs; default: found by name and type.
        keep: columns of a table to carry along into the codes.

    Raises:
        InputError: nothing there to tokenize, or a kind of source that is not supported yet.
        ConfigError: options that this source cannot obey.
    """
    if isinstance(source, Source):
        return source
    if modality not in SUFFIXES:
        raise ConfigError(
            f"datasets can be tokenized with {' and '.join(SUFFIXES)} tokenizers so far; this "
            f"tokenizer takes {modality}. Call its tokenize() on the items instead."
        )
    if "://" in str(source):
        raise InputError(f"{source}: remote sources are not supported yet; give {SUPPORTED}.")
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path} does not exist; SOURCE is {SUPPORTED}.")
    root = path if path.is_dir() else path.parent
    names, ignored = sort_names(path, modality)
    if names["tables"]:
        from vqtok.data.tables import TableSource  # it builds on this file

        return TableSource(root, names["tables"], modality, column, tuple(keep), ignored)
    if column is not None or keep:
        raise ConfigError(
            f"--column and --keep name columns of parquet or arrow files; {path} holds plain "
            "files, which have none."
        )
    return FileSource(root, names["files"], ignored)


def sort_names(path: Path, modality: str) -> tuple[dict[str, list[str]], int]:
    """Names under `path` (relative, "/" between) by kind, and how many are neither."""
    found = list(walk(path)) if path.is_dir() else [path.name]
    names: dict[str, list[str]] = {"files": [], "tables": []}
    for name in found:
        suffix = Path(name).suffix.lower()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden and suffix in TABLE_SUFFIXES:
            names["tables"].append(name)
        elif not hidden and suffix in SUFFIXES[modality]:
            names["files"].append(name)
    files, tables = names["files"], names["tables"]
    if files and tables:
        raise InputError(
            f"{path} holds both {modality} files ({files[0]}, ...) and tables ({tables[0]}, "
            "...): name one of them, a subfolder or a single file."
        )
    if not files and not tables:
        what = f"none of the {len(found)} files in {path} is" if path.is_dir() else f"{path} is not"
        raise InputError(f"{what} an input that can be tokenized so far; SOURCE is {SUPPORTED}.")
    for name in files + tables:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"the name of {name!r} is not valid UTF-8, so no row can name it: rename the file."
            ) from None
    return names, len(found) - len(files) - len(tables)


def walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every file under a folder, links followed, a link back to a folder above not.

    A link that leads nowhere is a file: its row will say so.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_dangling(entry) or entry.is_file():
                yield entry.name
            elif entry.is_dir():
                inner = walk(folder / entry.name, (*above, real))
                yield from (f"{entry.name}/{name}" for name in inner)


def is_dangling(path: os.PathLike) -> bool:
    """Whether this is a link whose target cannot be found, itself included."""
    return os.path.islink(path) and not os.path.exists(path)


def file_version(path: Path) -> tuple[int, str]:
    """(bytes, version word) of a file; the version changes when the file is written again."""
    try:
        status = path.lstat() if is_dangling(path) else path.stat()
    except OSError as error:
        raise InputError(
            f"{path} was listed as an input, but cannot be found now ({error.strerror}). "
            "Bring it back, or start a new run."
        ) from error
    return status.st_size, f"{status.st_mtime_ns:x}"
