"""Files on any file system that fsspec knows: s3://, gs://, az://, hf://, http://, memory://, ...

A file's version is what its file system says of it (ETag, blob id, time). One listing gives the
names and the versions of all files; nothing is asked per file until it is read.

An outage is an error of the run, never of an input: the row would say so for ever.
"""

import io
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, BinaryIO

from vqtok.data.files import MAX_FILE_BYTES, Files, changed, gone
from vqtok.errors import InputError, VqtokError

logger = logging.getLogger(__name__)

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
BLOCK_BYTES = 8 << 20  # read ahead of a file that is read from the front
AT_ONCE = 16  # small files asked for together, since each takes a round trip
PRECONDITION = ("412", "PreconditionFailed")
FAILED = "%s failed, and is tried again: %s"
COMMIT = re.compile(r"[0-9a-f]{40}")


class RemoteFiles(Files):
    """Files under a URL.

    Args:
        url: of the folder.
    """

    at_once = AT_ONCE

    def __init__(self, url: str):
        self.location = url.rstrip("/")
        self.ends_as_folder = url.endswith("/")
        self.system, root = open_system(self.location)
        self.root = root.rstrip("/")
        self._listed: dict[str, tuple[int, str]] = {}
        self._failure: VqtokError | None = None  # the answer to whoever else is waiting
        self._warned = False

    def __getstate__(self) -> dict:
        """To another process without what was listed, which may be old by then."""
        return self.__dict__ | {"_listed": {}}

    def is_file(self) -> bool:
        if self.ends_as_folder:
            return False
        self.system.invalidate_cache(self.root)
        try:
            return self._ask("info", self.root)["type"] == "file"
        except FileNotFoundError:
            return False

    def names(self) -> Iterator[str]:
        yield from self._names("find", self.root)

    def matching(self, pattern: str) -> Iterator[str]:
        """The files whose names fit a glob pattern, relative to the root."""
        yield from self._names("glob", self._path(pattern))

    def _names(self, method: str, path: str) -> Iterator[str]:
        self.system.invalidate_cache()  # what was listed before may be old
        try:
            found = self._ask(method, path, detail=True)
        except FileNotFoundError as error:
            raise InputError(f"there is nothing at {self.location}: {error}.") from error
        start = len(self.root) + 1 if self.root else 0
        for found_path, info in found.items():
            name = found_path[start:]
            if not name or info.get("type") == "directory":
                continue
            if info.get("size") is not None and version_word(info):
                self._listed[name] = int(info["size"]), version_word(info)
            yield name

    def version(self, name: str) -> tuple[int, str]:
        """As it was listed, the first time; from then on as it is."""
        if name in self._listed:
            return self._listed.pop(name)
        path = self._path(name)
        self.system.invalidate_cache(self.system._parent(path))
        try:
            info = self._ask("info", path)
        except FileNotFoundError as error:
            raise gone(f"{self.location}/{name}") from error
        return int(info.get("size") or 0), version_word(info)

    def open(self, name: str) -> BinaryIO:
        return io.BufferedReader(RemoteFile(self, self._path(name)), 1 << 20)

    def read_planned(
        self, name: str, size: int, etag: str
    ) -> tuple[bytes | None, InputError | None]:
        self._listed.pop(name, None)
        return super().read_planned(name, size, etag)

    def _read(self, name: str) -> bytes:
        try:
            return self._ask("cat_file", self._path(name))
        except FileNotFoundError as error:
            raise gone(f"{self.location}/{name}") from error

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A question to the file system, asked again before it counts as failed."""
        what = f"{method} of {arguments[0]}"
        return self.persist(what, lambda: getattr(self.system, method)(*arguments, **options))

    def persist(self, what: str, action: Callable[[], Any]) -> Any:
        """What the action gives, tried again where the network may be at fault.

        Raises:
            FileNotFoundError: there is no such file.
            VqtokError: the file system does not answer, or denies access.
        """
        for pause in RETRY_SECONDS:
            if self._failure is not None:
                raise self._failure
            try:
                return action()
            except FileNotFoundError:
                raise
            except PermissionError as denied:
                raise VqtokError(
                    f"{self.location} denies access ({what}: {denied}). Give these credentials "
                    "the right to read it, and go on with --resume."
                ) from denied
            except remote_errors() as error:
                if is_precondition(error):
                    raise VqtokError(
                        f"{self.location}: a file changed while it was read ({what}). Start a new "
                        "run, or bring the old file back and use --resume."
                    ) from error
                # one of many that are under way says enough
                logger.log(logging.INFO if self._warned else logging.WARNING, FAILED, what, error)
                self._warned, failure = True, error
                time.sleep(pause)
        self._failure = VqtokError(
            f"{self.location} does not answer ({what}: {failure}). Is the network there? Go on "
            "with --resume once it is."
        )
        raise self._failure from failure

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if self.root else name


class S3Files(RemoteFiles):
    """Objects of S3: one request gives the content, if it is still the one that was planned."""

    def read_planned(
        self, name: str, size: int, etag: str
    ) -> tuple[bytes | None, InputError | None]:
        if size > MAX_FILE_BYTES:
            return super().read_planned(name, size, etag)
        path = self._path(name)
        try:
            data = self.persist(f"get of {path}", lambda: self._get(path, etag))
        except FileNotFoundError as error:
            raise gone(f"{self.location}/{name}") from error
        if data is None or len(data) != size:
            raise changed(f"{self.location}/{name}", size, None if data is None else len(data))
        return data, None

    def _get(self, path: str, etag: str) -> bytes | None:
        """The content, or None if it has another ETag."""
        from fsspec.asyn import sync

        bucket, key, _ = self.system.split_path(path)
        try:
            answer = self.system.call_s3("get_object", Bucket=bucket, Key=key, IfMatch=etag)
        except OSError as error:
            if is_precondition(error):
                return None
            raise
        data = sync(self.system.loop, answer["Body"].read)
        return data if answer.get("ETag", etag) == etag else None


class HubFiles(RemoteFiles):
    """Files of a repository on the Hub, all of the one commit that it had when it was opened."""

    def __init__(self, url: str):
        super().__init__(url)
        try:
            self.root = self.persist(f"the commit of {self.root}", self._pinned)
        except FileNotFoundError as error:
            raise InputError(
                f"{self.location} cannot be found on the Hub ({error.__cause__ or error}). Is the "
                "name right, and may this token read it?"
            ) from error
        self.location = f"hf://{self.root}"

    def _pinned(self) -> str:
        from huggingface_hub import HfApi

        place = self.system.resolve_path(self.root)
        if not hasattr(place, "revision"):
            return self.root  # a bucket has no commits
        commit = place.revision
        if not COMMIT.fullmatch(commit):
            api = HfApi(endpoint=self.system.endpoint, token=self.system.token)
            commit = api.repo_info(
                place.repo_id, repo_type=place.repo_type, revision=commit, expand=["sha"]
            ).sha
        kind = f"{place.repo_type}s/" if place.repo_type != "model" else ""
        return f"{kind}{place.repo_id}@{commit}/{place.path_in_repo}".rstrip("/")

    @property
    def is_fixed(self) -> bool:
        return re.search(rf"@{COMMIT.pattern}(/|$)", self.root) is not None

    def _read(self, name: str) -> bytes:
        def stream() -> bytes:
            # without blocks nothing is asked but the content itself
            with self.system.open(self._path(name), "rb", block_size=0) as file:
                return file.read()

        try:
            return self.persist(f"get of {self._path(name)}", stream)
        except FileNotFoundError as error:
            raise gone(f"{self.location}/{name}") from error

    def check(self, name: str, size: int, etag: str) -> None:
        """Files of a commit never change."""
        if not self.is_fixed:
            super().check(name, size, etag)


class RemoteFile(io.RawIOBase):
    """A file whose reads are tried again, and which says so when they fail for good."""

    def __init__(self, files: RemoteFiles, path: str):
        super().__init__()
        self._files, self._path = files, path
        try:
            self._file = files._ask("open", path, "rb", block_size=BLOCK_BYTES)
        except FileNotFoundError as error:
            raise gone(path) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except ValueError as error:
            raise InputError(
                f"the server of {self._path} does not send parts of a file ({error}), so it "
                "cannot be read as it lies there: copy it first."
            ) from error

    def readinto(self, buffer: memoryview) -> int:
        place = self._file.tell()

        def read() -> bytes:
            if self._file.tell() != place:
                self._file.seek(place)
            return self._file.read(len(buffer))

        try:
            data = self._files.persist(f"read of {self._path}", read)
        except FileNotFoundError as error:
            raise VqtokError(str(gone(self._path))) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


def remote_files(url: str) -> RemoteFiles:
    """The files under a URL."""
    protocol = url.partition("://")[0]
    return {"s3": S3Files, "s3a": S3Files, "hf": HubFiles}.get(protocol, RemoteFiles)(url)


def version_word(info: dict) -> str:
    """The surest that a file system says of a file's version; empty if it says nothing."""
    found = next((info[key] for key in (*VERSION_KEYS, *LATER_KEYS) if info.get(key)), "")
    # a listing may give as seconds what is a datetime elsewhere
    found = found.timestamp() if isinstance(found, datetime) else found
    return f"{found:.6f}" if isinstance(found, float) else str(found)


def is_precondition(error: BaseException) -> bool:
    """Whether S3 refused because an object has another ETag than was asked for."""
    causes = (error, error.__cause__)
    codes = [getattr(cause, "response", None) or {} for cause in causes]
    told = type(error).__name__ == "FileExpired"
    return told or any(code.get("Error", {}).get("Code") in PRECONDITION for code in codes)


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
