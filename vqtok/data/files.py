"""The files of a source: on this machine, or on any file system that fsspec knows.

Names are relative to the root, "/" between. Listing is one walk; reading never happens twice for
one input. A remote file's version is what its file system says of it (ETag, blob id, time).
"""

import logging
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vqtok.errors import InputError, VqtokError

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 30  # a larger file is not read into memory at all
# what file systems call a file's version, the surest first
VERSION_KEYS = ("ETag", "etag", "blob_id", "md5Hash", "LastModified", "last_modified", "mtime")
LATER_KEYS = ("updated", "created", "uid")
REMOTE_ERRORS = (
    ("httpx", "HTTPError"),
    ("httpx2", "HTTPError"),
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
)
RETRY_SECONDS = (0.5, 2.0, 0.0)  # pauses behind each attempt
HF_DATASETS = re.compile(r"hf://datasets/(?P<name>[^:]+)(?::(?P<split>[\w.-]+))?")


class Files(ABC):
    """A root with files under it."""

    location: str

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
        except OSError as error:
            raise InputError(
                f"{path} was listed as an input, but cannot be found now ({error.strerror}). "
                "Bring it back, or start a new run."
            ) from error
        return status.st_size, f"{status.st_mtime_ns:x}"

    def open(self, name: str) -> BinaryIO:
        return open(self.root / name, "rb")

    def read(self, name: str, size: int) -> bytes:
        path = self.root / name
        if is_dangling(path):
            raise InputError(f"a link to {os.readlink(path)}, which cannot be found")
        return super().read(name, size)

    def _read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except PermissionError as denied:
            raise InputError(f"the file cannot be read: {denied.strerror}") from None


class RemoteFiles(Files):
    """Files under a URL of fsspec: s3://, gs://, az://, hf://, http://, memory://, ...

    Args:
        url: of the folder.
    """

    def __init__(self, url: str):
        self.location = url.rstrip("/")
        self.system, root = open_system(self.location)
        self.root = root.rstrip("/")

    def is_file(self) -> bool:
        return self._ask("isfile", self.root)

    def names(self) -> Iterator[str]:
        start = len(self.root) + 1 if self.root else 0
        yield from (path[start:] for path in self._ask("find", self.root))

    def version(self, name: str) -> tuple[int, str]:
        try:
            info = self._ask("info", self._path(name))
        except FileNotFoundError as error:
            raise InputError(
                f"{self.location}/{name} was listed as an input, but cannot be found now. "
                "Bring it back, or start a new run."
            ) from error
        words = (str(info[key]) for key in (*VERSION_KEYS, *LATER_KEYS) if info.get(key))
        return int(info.get("size") or 0), next(words, "")

    def open(self, name: str) -> BinaryIO:
        return self._ask("open", self._path(name), "rb")

    def _read(self, name: str) -> bytes:
        return self._ask("cat_file", self._path(name))

    def _ask(self, method: str, *arguments, **options):
        """A question to the file system, asked again before it counts as failed.

        An outage is an error of the run, never of an input: the row would say so for ever.
        """
        for pause in RETRY_SECONDS:
            try:
                return getattr(self.system, method)(*arguments, **options)
            except FileNotFoundError:
                raise
            except remote_errors() as error:
                logger.warning("%s %s failed: %s", method, arguments[0], error)
                failure = error
                time.sleep(pause)
        raise VqtokError(
            f"{self.location} does not answer ({method} of {arguments[0]}: {failure}). Is the "
            "network there? Go on with --resume once it is."
        ) from failure

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if self.root else name


def remote_errors() -> tuple[type[BaseException], ...]:
    """What file systems raise when they cannot answer; their libraries have errors of their own."""
    found = (
        getattr(sys.modules[module], name, None)
        for module, name in REMOTE_ERRORS
        if module in sys.modules
    )
    return (OSError, RuntimeError, *(error for error in found if error is not None))


def open_system(url: str) -> tuple:
    """The file system of a URL, and the path in it.

    Raises:
        InputError: no such file system, or its package is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url} cannot be opened: {error}.") from error


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
