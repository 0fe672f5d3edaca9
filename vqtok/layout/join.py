"""Rows of several runs that belong together: a photo, its caption and its sound, by a common key.

Runs of one table pair by the row they came from, folders by file names without their endings
(a/7.jpg, a/7.txt), other runs by a column that both kept. No row is guessed: a key that a run has
twice is refused, and what has no partner is counted.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from vqtok.errors import InputError

SOURCE = "src"  # the file's name without its ending, and the row in it
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
        on: "src", or a column that all runs have; rows where it is null have no partner.
        left_out: its "unpaired" counts rows of any run without a partner.

    Yields:
        Name of a stream to the row of its run; bad rows too.

    Raises:
        InputError: a run without the column, or with a key twice.
    """
    columns = [SOURCE, "src_row"] if on == SOURCE else [on]
    found, total = None, 0
    for name, run in runs.items():
        own, count = _keys(name, run.rows(columns=columns), on)
        found, total = own if found is None else found & own, total + count
    common = found or set()
    if left_out is not None and total > len(common) * len(runs):
        left_out[UNPAIRED] += total - len(common) * len(runs)
    (first, leading), *others = runs.items()
    finders = {name: _Finder(run, on, common) for name, run in others}
    for row in leading.rows():
        key = _key(row, on)
        if key in common:
            yield {first: row} | {name: finder.take(key) for name, finder in finders.items()}


class _Finder:
    """Finds rows by key in a run that is read once; rows that come too early wait."""

    def __init__(self, run: Any, on: str, common: set[bytes]):
        keyed = ((_key(row, on), row) for row in run.rows())
        self._keyed = (pair for pair in keyed if pair[0] in common)
        self._waiting: dict[bytes, Row] = {}

    def take(self, wanted: bytes) -> Row:
        while wanted not in self._waiting:
            key, row = next(self._keyed)
            self._waiting[key] = row
        return self._waiting.pop(wanted)


def _keys(name: str, rows: Iterator[Row], on: str) -> tuple[set[bytes], int]:
    """The keys of a run, and how many rows it has."""
    keys: set[bytes] = set()
    count = 0
    for row in rows:
        count += 1
        if on not in row:
            raise InputError(
                f"the run of {name!r} has no column {on!r} to pair rows by. Tokenize with "
                f"--keep {on}, or pair by another column with --join COLUMN."
            )
        key = _key(row, on)
        if key in keys:
            value = row[on] if on != SOURCE else f"{row[SOURCE]}, row {row['src_row']}"
            raise InputError(
                f"the run of {name!r} has two rows with the {on} {value!r}: which one belongs to "
                "the other runs' row? Pair by a column whose values are unique."
            )
        keys |= {key} - {None}
    return keys, count


def _key(row: Row, on: str) -> bytes | None:
    if row[on] is None:
        return None
    value = str(row[on])
    if on == SOURCE:
        path = PurePosixPath(value)
        value = f"{path.parent / path.stem}\n{row['src_row']}"
    return hashlib.blake2b(value.encode(), digest_size=16).digest()
