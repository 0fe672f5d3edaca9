"""The only code that writes into a run's folder: every file appears whole, or not at all.

A unit is published by linking a finished, synced file to its final name. The link fails if the
name exists, so whoever comes first wins and nobody overwrites; a crash before it leaves rubbish in
`.vqtok/tmp`, a crash after it a published unit. The data file is the only checkpoint.

A lock keeps a second driver out. Local disks have locks, and NFS has them for all its machines
unless it is mounted with `nolock` or `local_lock`. Where there are none, starting one driver per
folder is up to you; what is published, appears once and whole all the same, because links decide.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from vqtok.data.failpoints import failpoint
from vqtok.errors import ConfigError, FormatError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

STATE = ".vqtok"
LOCK = f"{STATE}/lock"
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


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

        Raises:
            ConfigError: another process has it; the message says which.
        """
        self.path(f"{STATE}/tmp").mkdir(parents=True, exist_ok=True)
        with open(self.path(LOCK), "a+") as handle:
            got = _try_lock(handle, shared)
            holder = _holder(handle)
            if got is False:
                who = f" ({holder})" if holder else ""
                raise ConfigError(
                    f"another process is writing to {self.root} right now{who}; wait for it to "
                    "end, or end it."
                )
            if got is None:
                logger.warning("%s has no file locks: start one driver per folder", self.root)
            elif not shared:
                self._tidy(holder)
            _say_who(handle, shared)
            try:
                yield
            finally:
                handle.truncate(0)

    def _tidy(self, holder: str) -> None:
        """What a killed process has left; it had no time to take its name away."""
        if holder:
            logger.warning(
                "the last process that wrote here (%s) was killed or crashed; if an input did "
                "that, more than one worker finds it and goes on",
                holder,
            )
        for left_over in self.path(f"{STATE}/tmp").iterdir():
            left_over.unlink()

    def is_locked(self) -> bool | None:
        """Whether a process holds the lock; None where there are no locks."""
        path = self.path(LOCK)
        if fcntl is None or not path.exists():
            return None if fcntl is None else False
        with open(path, "a") as handle:
            got = _try_lock(handle, shared=False)
        return None if got is None else not got

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


def _try_lock(handle: IO[str], shared: bool) -> bool | None:
    """Whether this process has the lock of a file now; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _holder(handle: IO[str]) -> str:
    """Who wrote its name into the lock and has not taken it away; empty if nobody has."""
    handle.seek(0)
    return handle.read(200).strip()


def _say_who(handle: IO[str], shared: bool) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    who = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
    handle.truncate(0)
    handle.write(f"tasks that share the run, the last to begin: {who}" if shared else who)
    handle.flush()


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
