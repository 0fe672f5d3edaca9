"""The plan: every input in one immutable, numbered unit, written down before the first code.

A unit is a run of `unit_rows` inputs, in source order; it becomes one parquet file. Whoever holds
the plan knows what a finished run must contain, whatever crashed in between.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from vqtok.data.parquet import read_parquet
from vqtok.data.sources import InputShard, Segment
from vqtok.errors import ConfigError, FormatError, InputError

SPLIT = "train"
# one folder of the Hub holds fewer than 10,000 files
MAX_UNITS = 9_000
# by default: a few minutes of work and a few megabytes of codes, which is what a crash can cost; a
# small source makes several smaller units, so that several workers have something to do
MOST_UNIT_ROWS = 8_192
LEAST_UNIT_ROWS = 64
SMALL_RUN_UNITS = 8

PLAN_SCHEMA = pa.schema(
    [
        ("unit_id", pa.int32()),
        ("split", pa.string()),
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("row_start", pa.int64()),
        ("row_count", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Unit:
    """A numbered slice of the input; its rows are the rows of its segments, in order."""

    unit_id: int
    segments: tuple[Segment, ...]

    @property
    def rows(self) -> int:
        return sum(segment.row_count for segment in self.segments)


@dataclass(frozen=True)
class Plan:
    """All units of a run.

    Attributes:
        unit_rows: inputs of each but the last; 0 if the plan was read back.
    """

    units: tuple[Unit, ...]
    unit_rows: int = field(default=0, compare=False)

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.units)

    def file_name(self, unit_id: int) -> str:
        return f"data/{SPLIT}-{unit_id:05d}-of-{len(self.units):05d}.parquet"

    def records(self) -> Iterable[list]:
        for unit in self.units:
            for part in unit.segments:
                version = [part.uri, part.size, part.etag]
                yield [unit.unit_id, SPLIT, *version, part.row_start, part.row_count]

    def digest(self) -> str:
        """sha256 hex over every record of the plan; the same plan gives the same digest."""
        sha = hashlib.sha256()
        for record in self.records():
            sha.update(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        return sha.hexdigest()

    def to_parquet(self) -> bytes:
        columns = list(zip(*self.records(), strict=True))
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, PLAN_SCHEMA, strict=True)
        ]
        out = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=PLAN_SCHEMA), out, compression="zstd")
        return out.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, name: str) -> "Plan":
        """Read a plan back; `name` is for the error message."""
        try:
            table = read_parquet(data)
        except pa.ArrowException as error:
            raise FormatError(f"{name} cannot be read as a plan: {error}") from error
        if table.schema.names != PLAN_SCHEMA.names:
            raise FormatError(
                f"{name} should have columns {PLAN_SCHEMA.names}; it has {table.schema.names}."
            )
        units: dict[int, list[Segment]] = {}
        for row in table.to_pylist():
            unit_id, _ = row.pop("unit_id"), row.pop("split")
            units.setdefault(unit_id, []).append(Segment(**row))
        return cls(tuple(Unit(number, tuple(parts)) for number, parts in units.items()))


def default_unit_rows(rows: int) -> int:
    """Inputs per unit of a source of so many; it depends on nothing else."""
    return min(max(-(-rows // SMALL_RUN_UNITS), LEAST_UNIT_ROWS), MOST_UNIT_ROWS)


def build_plan(shards: Iterable[InputShard], unit_rows: int | None = None) -> Plan:
    """Cut the inputs of all shards, one after the other, into units of `unit_rows`.

    Args:
        shards: the files of a source.
        unit_rows: default: `default_unit_rows`.

    Raises:
        ConfigError: a unit size below 1, or so small that there would be too many files.
        InputError: there is no input at all.
    """
    if unit_rows is not None and unit_rows < 1:
        raise ConfigError(f"unit_rows must be at least 1; got {unit_rows}.")
    shards = list(shards)
    total = sum(shard.rows for shard in shards)
    unit_rows = default_unit_rows(total) if unit_rows is None else unit_rows
    if total == 0:
        raise InputError("the source holds no input: 0 rows to tokenize.")
    if total > unit_rows * MAX_UNITS:
        raise ConfigError(
            f"{total} inputs in units of {unit_rows} make {-(-total // unit_rows)} files; a run "
            f"holds at most {MAX_UNITS}. Pass --unit-rows {-(-total // MAX_UNITS)} or more."
        )
    units: list[list[Segment]] = [[]]
    room = unit_rows
    for shard in shards:
        start = 0
        while start < shard.rows:
            if room == 0:
                units.append([])
                room = unit_rows
            count = min(room, shard.rows - start)
            units[-1].append(Segment(shard.uri, shard.size, shard.etag, start, count))
            start, room = start + count, room - count
    return Plan(tuple(Unit(n, tuple(parts)) for n, parts in enumerate(units)), unit_rows)


def plan_difference(old: Plan, new: Plan) -> str:
    """In words, the first thing that differs between two plans; empty if nothing does."""
    before = {part.uri: part for unit in old.units for part in unit.segments}
    after = {part.uri: part for unit in new.units for part in unit.segments}
    for uri, part in before.items():
        if uri not in after:
            return f"{uri} is gone"
        now = after[uri]
        if part.size != now.size:
            return f"{uri} had {part.size} bytes and now has {now.size}"
        if part.etag != now.etag:
            return f"{uri} was written again since"
    for uri in after:
        if uri not in before:
            return f"{uri} is new"
    return "" if old == new else f"the units: {len(old.units)} before, {len(new.units)} now"
