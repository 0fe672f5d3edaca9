"""Webdataset tars: members that share a key are one sample, one of them is the input.

    000.jpg 000.txt 000.json 001.jpg 001.txt ...   key: the name up to the first dot

A sample without an input, or what follows a damaged place in the tar, is a row that says so.
"""

import tarfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

from vqtok.data.files import MAX_FILE_BYTES, Files
from vqtok.data.modalities import modality_of
from vqtok.data.sources import Choice, InputShard, RawSample, ScannedSource
from vqtok.errors import InputError

Member = tarfile.TarInfo | InputError
UNREADABLE = (tarfile.TarError, OSError, EOFError)


@dataclass
class Members:
    """The members of one sample, by their suffix without the dot."""

    key: str
    parts: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    problem: str = ""


class TarSource(ScannedSource):
    """Samples of tars, tar after tar. `column` and `keep` name suffixes of members: jpg, txt."""

    kind = "tars"

    def __init__(self, files: Files, names: Sequence[str], choice: Choice):
        super().__init__(files, names, choice)
        self.suffix = choice.column
        self.suffixes = {suffix[1:] for suffix in modality_of(choice.modality).suffixes}
        self.kept_fields = tuple(pa.field(name, pa.string()) for name in choice.keep)

    def list(self) -> list[InputShard]:
        shards = []
        for name in self.names:
            with self.files.open(name) as file:
                rows = sum(1 for _ in samples_of(file))
            shards.append(InputShard(name, *self.version(name), rows=rows))
        return shards

    def scan(self, name: str, start: int) -> Generator[RawSample, None, None]:
        with self.files.open(name) as file:
            for row, (tar, members) in enumerate(samples_of(file)):
                if row >= start:
                    yield self._sample(tar, members, name, row)

    def _sample(
        self, tar: tarfile.TarFile | None, members: Members, name: str, row: int
    ) -> RawSample:
        sample = RawSample(None, members.key, name, row)
        sample.kept = dict.fromkeys(kept.name for kept in self.kept_fields)
        try:
            if members.problem:
                raise InputError(members.problem)
            for kept in sample.kept:
                if kept in members.parts:
                    content = read_member(tar, members.parts[kept])
                    sample.kept[kept] = content.decode("utf-8", "replace")
            sample.data = read_member(tar, members.parts[self._input(members)])
        except InputError as error:
            sample.error = error
        return sample

    def _input(self, members: Members) -> str:
        """The suffix of the member that is the input."""
        wanted = {self.suffix} if self.suffix else self.suffixes
        found = [suffix for suffix in members.parts if suffix in wanted]
        if len(found) == 1:
            return found[0]
        raise InputError(
            f"the sample has members {list(members.parts)}; one of them should be a "
            f"{self.suffix or self.modality}" + (": name it with --column." if found else "."),
            "decode_error" if found else "empty",
        )


def members_of(file: BinaryIO) -> Iterator[tuple[tarfile.TarFile | None, Member]]:
    """The files in a tar, in order; then the error, if it is damaged."""
    try:
        # not compressed: a sample is read after the next one was seen, by going back; not closed
        # here either, since the last sample is read after the last member was seen
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
        for member in tar:
            tar.members = []  # or it keeps them all
            if member.isfile():
                yield tar, member
        # tarfile takes any end for the end
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            yield None, InputError("the tar is damaged here, or was cut off: it has no end mark")
    except UNREADABLE as error:
        yield None, InputError(f"the tar is damaged or compressed here: {error}")


def samples_of(file: BinaryIO) -> Iterator[tuple[tarfile.TarFile | None, Members]]:
    """Members one after the other to samples, by their key."""
    sample, owner = None, None
    for tar, member in members_of(file):
        if isinstance(member, InputError):
            if sample is not None:
                yield owner, sample
            yield None, Members(key="", problem=str(member))
            return
        owner = tar
        folder, _, last = member.name.rpartition("/")
        stem, _, suffix = last.partition(".")
        if not stem or stem.startswith("__"):
            continue  # hidden files, and webdataset's own notes
        key = f"{folder}/{stem}" if folder else stem
        if sample is None or sample.key != key or suffix.lower() in sample.parts:
            if sample is not None:
                yield owner, sample
            sample = Members(key)
        sample.parts[suffix.lower()] = member
    if sample is not None:
        yield owner, sample


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member.

    Raises:
        InputError: it is too large, or the tar ends in it.
    """
    if member.size > MAX_FILE_BYTES:
        raise InputError(f"{member.size} bytes; at most {MAX_FILE_BYTES} are read", "too_large")
    try:
        with tar.extractfile(member) as file:
            data = file.read()
    except UNREADABLE as error:
        raise InputError(f"{member.name} cannot be read from the tar: {error}") from error
    if len(data) != member.size:
        raise InputError(f"{member.name} has {len(data)} of its {member.size} bytes in the tar")
    return data
