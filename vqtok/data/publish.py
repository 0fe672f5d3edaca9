"""The only code that writes into a run's folder: every file appears whole, or not at all.

A unit is published by linking a finished, synced file to its final name. The link fails if the
name exists, so whoever comes first wins and nobody overwrites; a crash before it leaves rubbish in
`.vqtok/tmp`, a crash after it a published unit. The data file is the only checkpoint.
"""

import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vqtok.data.failpoints import failpoint
from vqtok.errors import ConfigError, FormatError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

STATE = ".vqtok"
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LocalStore:
    """A run's folder on a local disk. All names are relative to it, "/" between."""

    def __init__(self, root: Path):
        self.root = root

    def path(self, name: str) -> Path:
        return self.root / name

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def read_json(self, name: str) -> dict:
        try:
            return json.loads(self.path(name).read_text())
        except FileNotFoundError:
            raise FormatError(f"{self.path(name)} is missing.") from None
        except (ValueError, OSError) as error:
            raise FormatError(f"{self.path(name)} cannot be read as JSON: {error}") from error

    @contextlib.contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Keep a second driver out; the system lets go of the lock however this process ends.

        Args:
            shared: let in others that ask for a shared lock: tasks that make different units, and
                publish for themselves. Drivers that want the run for themselves stay out.
        """
        self.path(f"{STATE}/tmp").mkdir(parents=True, exist_ok=True)
        with open(self.path(f"{STATE}/lock"), "a") as handle:
            if fcntl is None:
                logger.warning("this system has no file locks: run one process per folder")
            else:
                try:
                    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                    fcntl.flock(handle, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConfigError(
                        f"another process is writing to {self.root} right now; wait for it to end."
                    ) from None
            if not shared:
                for left_over in self.path(f"{STATE}/tmp").iterdir():
                    left_over.unlink()
            yield

    def is_locked(self) -> bool | None:
        """Whether a process holds the lock; None where the system has no locks."""
        path = self.path(f"{STATE}/lock")
        if fcntl is None or not path.exists():
            return None if fcntl is None else False
        with open(path, "a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def publish(self, name: str, data: bytes, unit: int | None = None) -> bool:
        """Make a file appear, whole, under a name that nobody has; False if somebody has it."""
        final = self.path(name)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._write(data, unit)
        try:
            won = _link(temporary, final)
        finally:
            temporary.unlink()
        _sync_folder(final.parent)
        if unit is not None:
            failpoint("after_link", unit)
        return won

    def replace(self, name: str, data: bytes) -> None:
        """Write a file that can be made again from the published ones."""
        final = self.path(name)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._write(data, None), final)
        _sync_folder(final.parent)

    def replace_parts(self, name: str, parts: Iterable[bytes]) -> None:
        """`replace` of a file that does not fit into memory, piece by piece."""
        final = self.path(name)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path(f"{STATE}/tmp/{os.getpid()}-parts")
        with open(temporary, "wb") as handle:
            for part in parts:
                handle.write(part)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, final)
        _sync_folder(final.parent)

    def replace_json(self, name: str, value: Any) -> None:
        self.replace(name, to_json(value))

    def _write(self, data: bytes, unit: int | None) -> Path:
        """A synced temporary file; a unit number arms the failpoints."""
        # machines that share the folder may have processes of one number
        owner = f"{socket.gethostname()}-{os.getpid()}"
        temporary = self.path(f"{STATE}/tmp/{owner}-{unit}")
        with open(temporary, "wb", buffering=0) as handle:
            if unit is not None:
                failpoint("before_write", unit)
            view, half = memoryview(data), len(data) // 2
            _write_all(handle, view[:half])
            if unit is not None:
                failpoint("torn_write", unit)
            _write_all(handle, view[half:])
            if unit is not None:
                failpoint("before_fsync", unit)
            os.fsync(handle.fileno())
            if unit is not None:
                failpoint("after_fsync", unit)
        return temporary


def to_json(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=False).encode() + b"\n"


def _write_all(handle: Any, data: memoryview) -> None:
    while data:
        data = data[handle.write(data) :]


def _link(temporary: Path, final: Path) -> bool:
    try:
        os.link(temporary, final)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    # no hard links on this file system: only the lock keeps two publishers apart
    if final.exists():
        return False
    os.rename(temporary, final)
    temporary.touch()
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
