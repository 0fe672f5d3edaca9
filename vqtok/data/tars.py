"""Webdataset tars, gzipped or not: members that share a key are one sample, one is the input.

    000.jpg 000.txt 000.json 001.jpg 001.txt ...   key: the name up to the first dot

A sample without an input, or what follows a damaged place in the tar, is a row that says so. A tar
is only ever read forward.
"""

import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

from vqtok.data.files import MAX_FILE_BYTES, Files
from vqtok.data.modalities import modality_of
from vqtok.data.scanned import Cursor, ScannedSource, opened
from vqtok.data.sources import Choice, RawSample
from vqtok.errors import InputError

Content = bytes | InputError | None  # None: not wanted, so not read
UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error)


@dataclass
class Members:
    """The members of one sample, by their suffix without the dot."""

    key: str
    parts: dict[str, Content] = field(default_factory=dict)
    problem: str = ""


class TarSource(ScannedSource):
    """Samples of tars, tar after tar. `column` and `keep` name suffixes of members: jpg, txt."""

    kind = "tars"

    def __init__(self, files: Files, names: Sequence[str], choice: Choice):
        super().__init__(files, names, choice)
        self.suffix = choice.column
        self.suffixes = {suffix[1:] for suffix in modality_of(choice.modality).suffixes}
        self.suffixes = {self.suffix} if self.suffix else self.suffixes
        self.kept_fields = tuple(pa.field(name, pa.string()) for name in choice.keep)

    def count(self, name: str) -> int:
        with opened(self.files, name) as file:
            return sum(1 for _ in samples_of(file, lambda row, suffix: False))

    def scan(self, cursor: Cursor) -> Generator[RawSample | None, None, None]:
        suffixes = self.suffixes | {kept.name for kept in self.kept_fields}

        def wanted(row: int, suffix: str) -> bool:
            return row >= cursor.wanted and suffix in suffixes

        with opened(self.files, cursor.name) as file:
            for row, members in enumerate(samples_of(file, wanted)):
                is_wanted = row >= cursor.wanted
                yield self._sample(members, cursor.name, row) if is_wanted else None

    def _sample(self, members: Members, name: str, row: int) -> RawSample:
        sample = RawSample(None, members.key, name, row)
        sample.kept = dict.fromkeys(kept.name for kept in self.kept_fields)
        try:
            if members.problem:
                raise InputError(members.problem)
            for kept in sample.kept:
                if kept in members.parts:
                    sample.kept[kept] = content_of(members, kept).decode("utf-8", "replace")
            sample.data = content_of(members, self._input(members))
        except InputError as error:
            sample.error = error
        return sample

    def _input(self, members: Members) -> str:
        """The suffix of the member that is the input."""
        found = [suffix for suffix in members.parts if suffix in self.suffixes]
        if len(found) == 1:
            return found[0]
        raise InputError(
            f"the sample has members {list(members.parts)}; one of them should be a "
            f"{self.suffix or self.modality}" + (": name it with --column." if found else "."),
            "decode_error" if found else "empty",
        )


def content_of(members: Members, suffix: str) -> bytes:
    """The bytes of a member that was wanted.

    Raises:
        InputError: they could not be read.
    """
    content = members.parts[suffix]
    if isinstance(content, InputError):
        raise content
    return content


class LastRead:
    """A file that remembers what was read last: of a whole tar, a block of zeros."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._file = file.seek, file.tell, file
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        self.last = self._file.read(size)
        return self.last


def members_of(
    file: BinaryIO,
) -> Iterator[tuple[tarfile.TarFile | None, tarfile.TarInfo | InputError]]:
    """The files in a tar, in order; then the error, if it is damaged."""
    watched = LastRead(file)
    try:
        # not closed here: the last member is read after it was handed over
        tar = tarfile.open(fileobj=watched, mode="r:")  # noqa: SIM115
        for member in tar:
            tar.members = []  # or it keeps them all
            if member.isfile():
                yield tar, member
        # tarfile takes any end for the end
        if watched.last != bytes(tarfile.BLOCKSIZE):
            yield None, InputError("the tar is damaged here, or was cut off: it has no end mark")
    except UNREADABLE as error:
        yield None, InputError(f"the tar is damaged or compressed here: {error}")


def samples_of(file: BinaryIO, wanted: Callable[[int, str], bool]) -> Iterator[Members]:
    """Members one after the other to samples, by their key.

    Args:
        file: the tar.
        wanted: whether the member of this sample (by its number) and suffix is to be read.
    """
    sample, row = None, -1
    for tar, member in members_of(file):
        if isinstance(member, InputError):
            if sample is not None:
                yield sample
            yield Members(key="", problem=str(member))
            return
        folder, _, last = member.name.rpartition("/")
        stem, _, suffix = last.partition(".")
        if not stem or stem.startswith("__"):
            continue  # hidden files, and webdataset's own notes
        key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
        if sample is None or sample.key != key or suffix in sample.parts:
            if sample is not None:
                yield sample
            sample, row = Members(key), row + 1
        sample.parts[suffix] = read_member(tar, member) if wanted(row, suffix) else None
    if sample is not None:
        yield sample


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | InputError:
    """The bytes of a member, or why there are none: it is too large, or the tar ends in it."""
    if member.size > MAX_FILE_BYTES:
        return InputError(f"{member.size} bytes; at most {MAX_FILE_BYTES} are read", "too_large")
    try:
        with tar.extractfile(member) as file:
            data = file.read()
    except UNREADABLE as error:
        return InputError(f"{member.name} cannot be read from the tar: {error}")
    if len(data) != member.size:
        return InputError(f"{member.name} has {len(data)} of its {member.size} bytes in the tar")
    return data
