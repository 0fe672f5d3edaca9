"""The files of a source: on this machine here, on any other file system in `vqtok.data.remote`.

Names are relative to the root, "/" between. Listing is one walk; reading never happens twice for
one input.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vqtok.errors import InputError

MAX_FILE_BYTES = 1 << 30  # a larger file is not read into memory at all
HF_DATASETS = re.compile(r"hf://datasets/(?P<name>[^:]+)(?::(?P<split>[\w.-]+))?")


class Files(ABC):
    """A root with files under it.

    Attributes:
        location: the root, for a person and for run.json.
        at_once: how many files to ask for together.
    """

    location: str
    at_once = 1

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Every file under the root, in any order."""

    @abstractmethod
    def version(self, name: str) -> tuple[int, str]:
        """(bytes, version word) of a file; the version changes when it is written again.

        Raises:
            InputError: the file is not there any more.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A file for reading, with seek."""

    def read(self, name: str, size: int) -> bytes:
        """The content of a file of `size` bytes.

        Raises:
            InputError: it is too large, or may not be read.
        """
        if size > MAX_FILE_BYTES:
            raise InputError(
                f"{size} bytes; a file of at most {MAX_FILE_BYTES} is read", "too_large"
            )
        return self._read(name)

    def check(self, name: str, size: int, etag: str) -> None:
        """Raise InputError unless a file is still the one that was planned."""
        now = self.version(name)
        if now != (size, etag):
            raise changed(f"{self.location}/{name}", size, now[0])

    def read_planned(
        self, name: str, size: int, etag: str
    ) -> tuple[bytes | None, InputError | None]:
        """The content of a file as it was planned, or else what its row says instead.

        Raises:
            InputError: it is not the file that was planned; an error of the run.
        """
        self.check(name, size, etag)
        try:
            data = self.read(name, size)
        except InputError as unreadable:
            return None, unreadable
        if size and len(data) != size:  # 0: the server does not say
            raise changed(f"{self.location}/{name}", size, len(data))
        return data, None

    @abstractmethod
    def _read(self, name: str) -> bytes:
        """The whole content of a file."""


class LocalFiles(Files):
    """Files under a folder; a link that leads nowhere is a file that cannot be read."""

    def __init__(self, root: Path):
        self.root = root

    @property
    def location(self) -> str:
        return str(self.root.resolve())

    def names(self) -> Iterator[str]:
        return walk(self.root)

    def version(self, name: str) -> tuple[int, str]:
        path = self.root / name
        try:
            status = path.lstat() if is_dangling(path) else path.stat()
        except (OSError, ValueError) as error:  # ValueError: no name that a file can have
            raise gone(str(path), getattr(error, "strerror", error)) from error
        return status.st_size, f"{status.st_mtime_ns:x}"

    def open(self, name: str) -> BinaryIO:
        path = self.root / name
        try:
            return open(path, "rb")
        except FileNotFoundError as error:
            raise gone(str(path), error.strerror) from error
        except OSError as error:
            raise InputError(f"{path} cannot be opened: {error.strerror}.") from error

    def read(self, name: str, size: int) -> bytes:
        path = self.root / name
        if is_dangling(path):
            raise InputError(f"a link to {os.readlink(path)}, which cannot be found")
        return super().read(name, size)

    def _read(self, name: str) -> bytes:
        path = self.root / name
        try:
            return path.read_bytes()
        except (PermissionError, IsADirectoryError) as denied:
            raise InputError(f"the file cannot be read: {denied.strerror}") from None


def gone(path: str, reason: object = "") -> InputError:
    """What to say of a file that is not there any more."""
    why = f" ({reason})" if reason else ""
    return InputError(
        f"{path} was listed as an input, but cannot be found now{why}. Bring it back, or start a "
        "new run."
    )


def changed(path: str, planned: int, now: int | None = None) -> InputError:
    """What to say of a file that is not the one that was planned."""
    sizes = f"planned with {planned} bytes" + ("" if now is None else f", now {now}")
    return InputError(
        f"{path} changed while it was being tokenized: {sizes} (modified in between). Start a new "
        "run, or bring the old file back and use --resume."
    )


def read_beside(files: Files, name: str, path: str) -> bytes:
    """A file by its path relative to the file that names it; an absolute path is one.

    Raises:
        InputError: it cannot be found or read.
    """
    folder, _, _ = name.rpartition("/")
    beside = f"{folder}/{path}" if folder and not path.startswith("/") else path
    try:
        size, _ = files.version(beside)
    except InputError as error:
        raise InputError(f"no file {path[:100]!r} beside {name}") from error
    return files.read(beside, size)


def split_url(source: str) -> tuple[str, str | None]:
    """A URL and its split: hf://datasets/NAME[:split] names both."""
    found = HF_DATASETS.fullmatch(source)
    return (f"hf://datasets/{found['name']}", found["split"]) if found else (source, None)


def of_split(name: str, split: str) -> bool:
    """Whether a file's name says that it belongs to a split, as `datasets` looks at it."""
    return re.search(rf"(^|[^a-zA-Z0-9]){re.escape(split)}([^a-zA-Z0-9]|$)", name) is not None


def walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every file under a folder, links followed, a link back to a folder above not.

    A link that leads nowhere is a file: its row will say so.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = os.scandir(folder)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be listed: {error.strerror}.") from error
    with entries:
        for entry in entries:
            if is_dangling(entry) or entry.is_file():
                yield entry.name
            elif entry.is_dir():
                inner = walk(folder / entry.name, (*above, real))
                yield from (f"{entry.name}/{name}" for name in inner)


def is_dangling(path: os.PathLike) -> bool:
    """Whether this is a link whose target cannot be found, itself included."""
    return os.path.islink(path) and not os.path.exists(path)
