"""Files of many inputs that are read from the front: the next unit goes on where one ended."""

import contextlib
import gzip
from abc import abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from vqtok.data.ahead import ahead
from vqtok.data.files import Files, changed
from vqtok.data.sources import InputShard, RawSample, Segment, Source

GZIPPED = (".gz", ".tgz")


@dataclass
class Cursor:
    """Where a file is being read.

    Attributes:
        row: the one that comes next.
        wanted: the first row whose content is needed; those before it are passed over.
    """

    name: str
    row: int
    wanted: int
    samples: Generator[RawSample | None, None, None] | None = None


class ScannedSource(Source):
    """Inputs one after the other in files.

    Attributes:
        starts_anywhere: whether reading can begin at any row; else it begins at the first.
    """

    starts_anywhere = False
    _cursor: Cursor | None = None

    @abstractmethod
    def scan(self, cursor: Cursor) -> Generator[RawSample | None, None, None]:
        """A value for every row from `cursor.row` on, None for one before `cursor.wanted`.

        The file is closed behind the last.
        """

    @abstractmethod
    def count(self, name: str) -> int:
        """The inputs of one file."""

    def list(self) -> list[InputShard]:
        return list(ahead(self._shard, self.names, self.files.at_once))

    def _shard(self, name: str) -> InputShard:
        return InputShard(name, *self.version(name), rows=self.count(name))

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        cursor = self._placed(segment.uri, segment.row_start)
        while cursor.row < segment.row_start:
            self._next(cursor, segment)
        for _ in range(segment.row_count):
            yield self._next(cursor, segment)

    def _next(self, cursor: Cursor, segment: Segment) -> RawSample | None:
        try:
            sample = next(cursor.samples)
        except StopIteration:
            # it had as many rows when it was planned
            raise changed(f"{self.location}/{segment.uri}", segment.size) from None
        cursor.row += 1
        return sample

    def _placed(self, name: str, start: int) -> Cursor:
        """A cursor from which row `start` can be reached by going forward."""
        cursor = self._cursor
        if cursor is None or cursor.name != name or cursor.row > start or self._jumps(start):
            self.close()
            cursor = Cursor(name, start if self.starts_anywhere else 0, start)
            cursor.samples = self.scan(cursor)
            self._cursor = cursor
        cursor.wanted = start
        return cursor

    def _jumps(self, start: int) -> bool:
        return self.starts_anywhere and self._cursor.row < start

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.samples.close()
            self._cursor = None

    def __getstate__(self) -> dict:
        """To another process without the open file."""
        return self.__dict__ | {"_cursor": None}


@contextlib.contextmanager
def opened(files: Files, name: str) -> Iterator[BinaryIO]:
    """A file for reading; a gzipped one as what it holds."""
    with files.open(name) as file:
        if name.lower().endswith(GZIPPED):
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                yield unpacked
        else:
            yield file
