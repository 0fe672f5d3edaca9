"""Rows of several runs that belong together: a photo, its caption and its sound, by a common key.

Runs of one source pair by the row they came from, folders of plain files by file names without
their endings (a/7.jpg, a/7.txt), other runs by a column that both kept. No row is guessed: two
tables may each have a row 7, so their runs are refused without a column; so is a key that a run
has twice, and what has no partner is counted.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vqtok.errors import ConfigError, InputError

SOURCE = "src"  # where a row came from: its file, and the row in that file
PLAIN_FILES = "files"  # the kind of source in which a file is one input
UNPAIRED = "unpaired"

Row = Mapping[str, Any]


def join_rows(
    runs: Mapping[str, Any], on: str = SOURCE, left_out: Counter | None = None
) -> Iterator[dict[str, Row]]:
    """Rows that all runs have, in the order of the first run.

    The keys are read first and kept as digests, about 100 bytes a row. Rows wait in memory only
    where the runs have different orders.

    Args:
        runs: name of a stream to its run.
        on: "src", for runs of one source or of folders of plain files; or a column that all runs
            have; rows where it is null have no partner.
        left_out: its "unpaired" counts rows of any run without a partner.

    Yields:
        Name of a stream to the row of its run; bad rows too.

    Raises:
        ConfigError: "src" for runs of different tables, tars, ...: their rows have no common name.
        InputError: a run without the column, or with a key twice.
    """
    by = _Key(on, plain_files=on == SOURCE and _are_plain_files(runs))
    columns = [SOURCE, "src_row"] if on == SOURCE else [on]
    found, total = None, 0
    for name, run in runs.items():
        own, count = _keys(name, run.rows(columns=columns), by)
        found, total = own if found is None else found & own, total + count
    common = found or set()
    if left_out is not None and total > len(common) * len(runs):
        left_out[UNPAIRED] += total - len(common) * len(runs)
    (first, leading), *others = runs.items()
    finders = {name: _Finder(run, by, common) for name, run in others}
    for row in leading.rows():
        key = by.of(row)
        if key in common:
            yield {first: row} | {name: finder.take(key) for name, finder in finders.items()}


@dataclass(frozen=True)
class _Key:
    """What rows that belong together have in common: where they come from, or a column's value."""

    on: str
    plain_files: bool

    def of(self, row: Row) -> bytes | None:
        if row[self.on] is None:
            return None
        value = str(row[self.on])
        if self.plain_files:
            path = PurePosixPath(value)
            value = str(path.parent / path.stem)
        if self.on == SOURCE:
            value += f"\n{row['src_row']}"
        return hashlib.blake2b(value.encode(), digest_size=16).digest()


def _are_plain_files(runs: Mapping[str, Any]) -> bool:
    """Whether names of files say which rows belong together; else the runs are of one source."""
    sources = {name: run.content["source"] for name, run in runs.items()}
    if all(source["kind"] == PLAIN_FILES for source in sources.values()):
        return True
    if len({(source["kind"], source["path"]) for source in sources.values()}) == 1:
        return False
    where = ", ".join(f"{name}: {s['path']} ({s['kind']})" for name, s in sources.items())
    raise ConfigError(
        "these runs come from different sources, and a row's number in one says nothing of the "
        f"others ({where}). Say which column pairs their rows with --join COLUMN; "
        "`vqtok tokenize --keep COLUMN` carries it along."
    )


class _Finder:
    """Finds rows by key in a run that is read once; rows that come too early wait."""

    def __init__(self, run: Any, by: _Key, common: set[bytes]):
        keyed = ((by.of(row), row) for row in run.rows())
        self._keyed = (pair for pair in keyed if pair[0] in common)
        self._waiting: dict[bytes, Row] = {}

    def take(self, wanted: bytes) -> Row:
        while wanted not in self._waiting:
            key, row = next(self._keyed)
            self._waiting[key] = row
        return self._waiting.pop(wanted)


def _keys(name: str, rows: Iterator[Row], by: _Key) -> tuple[set[bytes], int]:
    """The keys of a run, and how many rows it has."""
    keys: set[bytes] = set()
    on, count = by.on, 0
    for row in rows:
        count += 1
        if on not in row:
            raise InputError(
                f"the run of {name!r} has no column {on!r} to pair rows by. Tokenize with "
                f"--keep {on}, or pair by another column with --join COLUMN."
            )
        key = by.of(row)
        if key in keys:
            value = row[on] if on != SOURCE else f"{row[SOURCE]}, row {row['src_row']}"
            raise InputError(
                f"the run of {name!r} has two rows with the {on} {value!r}: which one belongs to "
                "the other runs' row? Pair by a column whose values are unique."
            )
        keys |= {key} - {None}
    return keys, count
