"""Blocks of ids of one meaning, and the exact way from an id back to what it means."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vqtok.errors import CodeRangeError, ConfigError

KINDS = ("text", "special", "label", "codes")


@dataclass(frozen=True)
class IdRange:
    """The ids of `size` values `first`, `first + 1`, ...

    Attributes:
        kind: text, special, label or codes.
        name: of the special, the label or the stream; "text" for text.
        size: number of values.
        start: id of the first value; the others follow. None if `ids` says them.
        level: of codes.
        first: the first value: 1 for heights and widths.
        ids: an explicit table, one id a value.
        without: offsets that mean something else, so that they are no values here: ids of a text
            vocabulary that were given to specials or to codes.
    """

    kind: str
    name: str
    size: int
    start: int | None = None
    level: int = 0
    first: int = 0
    ids: tuple[int, ...] | None = None
    without: tuple[int, ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS or self.size < 1 or (self.start is None) == (self.ids is None):
            raise ConfigError(
                f"an id range has a kind of {KINDS}, a size of at least 1, and a start or a "
                f"table of ids; got {self}."
            )

    @property
    def key(self) -> tuple[str, str, int]:
        return self.kind, self.name, self.level

    @property
    def span(self) -> str:
        """Where the ids lie, in words."""
        ids = (self.start, self.start + self.size - 1) if self.ids is None else self.ids
        return f"{min(ids)} to {max(ids)}"

    def __str__(self) -> str:
        level = f" level {self.level}" if self.kind == "codes" else ""
        return f"{self.kind} {self.name!r}{level}"

    @functools.cached_property
    def _ids(self) -> np.ndarray:
        return np.asarray(self.ids, np.int64)

    def table(self) -> np.ndarray:
        """int64 [size]: the id of every value; -1 where there is none."""
        if self.ids is not None:
            ids = self._ids.copy()
        else:
            ids = np.arange(self.start, self.start + self.size, dtype=np.int64)
        ids[list(self.without)] = -1
        return ids

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values to ids, int64, the same shape.

        Raises:
            CodeRangeError: a value that has no id here.
        """
        offsets = values.astype(np.int64) - self.first
        outside = (offsets < 0) | (offsets >= self.size)
        if outside.any():
            raise CodeRangeError(
                f"{self} holds values {self.first} to {self.first + self.size - 1}; "
                f"got {int(values[outside].reshape(-1)[0])}. Build a layout with a larger range."
            )
        taken = np.isin(offsets, self.without) if self.without else np.zeros(1, bool)
        if taken.any():
            raise CodeRangeError(
                f"{self}: id {int(values[taken].reshape(-1)[0])} was given to a special, a label "
                "or a code by the layout's table. Leave it out of the text."
            )
        return offsets + self.start if self.ids is None else self._ids[offsets]

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        empty = {"level": 0, "first": 0, "ids": None, "without": (), "start": None}
        return {k: v for k, v in values.items() if k not in empty or v != empty[k]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "IdRange":
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**lists)


class IdIndex:
    """From ids to ranges: a sorted list of runs, so that its size does not grow with K."""

    def __init__(self, ranges: Sequence[IdRange]):
        runs = [run for number, part in enumerate(ranges) for run in _runs(number, part)]
        table = np.array(sorted(runs), np.int64).reshape(-1, 4)
        # of every run: its first id, its length, its range, the offset of its first id there
        self._start, self._length, self._range, self._offset = table.T
        ends = self._start + self._length
        clash = np.flatnonzero(ends[:-1] > self._start[1:])
        if clash.size:
            one, other = (ranges[self._range[clash[0] + k]] for k in (0, 1))
            raise ConfigError(
                f"id {int(self._start[clash[0] + 1])} belongs both to {one} and to {other}. "
                "Every id of a vocabulary has one meaning."
            )
        if table.size and self._start[0] < 0:
            raise ConfigError(f"ids start at 0; {ranges[self._range[0]]} has {self._start[0]}.")
        self.size = int(ends[-1]) if table.size else 0

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Range numbers and offsets in them, int64, the shape of ids; -1 where an id has none."""
        ids = ids.astype(np.int64)
        run = np.searchsorted(self._start, ids, side="right") - 1
        offset = ids - self._start[run]
        known = (run >= 0) & (offset < self._length[run])
        number = np.where(known, self._range[run], -1)
        return number, np.where(known, self._offset[run] + offset, -1)


def _runs(number: int, part: IdRange) -> list[tuple[int, int, int, int]]:
    """Pieces of a range in which the ids follow each other."""
    if part.ids is None and not part.without:
        return [(part.start, part.size, number, 0)]
    ids = part.table()
    offsets = np.flatnonzero(ids >= 0) if part.without else np.arange(part.size)
    ids = ids[offsets]
    broken = (np.diff(ids) != 1) | (np.diff(offsets) != 1)
    firsts = np.concatenate([[0], np.flatnonzero(broken) + 1]) if ids.size else np.empty(0, int)
    lengths = np.diff(np.concatenate([firsts, [ids.size]]))
    return [
        (int(ids[i]), int(n), number, int(offsets[i])) for i, n in zip(firsts, lengths, strict=True)
    ]
