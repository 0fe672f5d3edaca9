"""Tokenizers that end their process, or never answer, on one image; importable by workers."""

import hashlib
import os
import signal
import time
from pathlib import Path

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from vqtok.errors import ConfigError

__all__ = ["EndsOnOne", "FakeTokenizer", "KilledOnOne", "SleepsOnOne", "Slow", "StopsOnOne"]

# the image that they do it on
BAD = hashlib.sha256(png(5)).hexdigest()


def is_bad(item) -> bool:
    return hashlib.sha256(item).hexdigest() == BAD


def first_in(place: Path) -> bool:
    """Whether nobody has been here before; leaves this process's number."""
    try:
        with place.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def only_where(word: str) -> FakeTokenizer:
    """The tokenizer, in a process whose environment says so."""
    if os.environ.get("VQTOK_TEST_WORD") != word:
        raise ConfigError(f"VQTOK_TEST_WORD is {os.environ.get('VQTOK_TEST_WORD')!r} here.")
    return FakeTokenizer()


class EndsOnOne(FakeTokenizer):
    def _one(self, item):
        if is_bad(item):
            os._exit(139)
        return super()._one(item)


class KilledOnOne(FakeTokenizer):
    """As when the system runs out of memory."""

    def _one(self, item):
        if is_bad(item):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._one(item)


class SleepsOnOne(FakeTokenizer):
    def _one(self, item):
        if is_bad(item):
            time.sleep(3600)
        return super()._one(item)


class StopsOnOne(FakeTokenizer):
    """Stops its process amid a unit, as SIGSTOP from outside would.

    Args:
        marks: folder; only the first process to get there stops, and leaves its number.
    """

    def __init__(self, marks: Path | None = None):
        super().__init__()
        self.marks = marks

    def _one(self, item):
        if is_bad(item) and (self.marks is None or first_in(self.marks / "stopped")):
            os.kill(os.getpid(), signal.SIGSTOP)
        return super()._one(item)


class Waits(FakeTokenizer):
    """Waits, on every image but the first twenty, for a file "go" in the folder `marks`.

    A process that has come so far leaves its number as "waiting-NUMBER" there.
    """

    def __init__(self, marks: Path, first: list[bytes]):
        super().__init__()
        self.marks, self.first = marks, set(first)

    def _one(self, item):
        if item not in self.first:
            (self.marks / f"waiting-{os.getpid()}").touch()
            while not (self.marks / "go").exists():
                time.sleep(0.02)
        return super()._one(item)


class EndsAlways(FakeTokenizer):
    def _one(self, item):
        os._exit(1)


class Slow(FakeTokenizer):
    """Slow enough for a signal to come in the middle."""

    def _one(self, item):
        time.sleep(0.004)
        return super()._one(item)
