"""Every byte of a run read once more: each planned input is there once, in order, and unchanged.

`verify_run` trusts nothing that the run says of itself where it can count: rows against the plan,
codes against their codebooks, files against their digests, totals against sums.
"""

import hashlib
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vqtok.data import manifest as texts
from vqtok.data.parquet import read_parquet
from vqtok.data.plan import Plan, Unit
from vqtok.data.publish import LocalStore
from vqtok.data.reader import open_run
from vqtok.data.schema import count_codes
from vqtok.errors import FormatError, VqtokError

MAX_PROBLEMS = 50  # told one by one
HASHED = ("src", "src_row", "status", "codes", "shape")


@dataclass(frozen=True)
class VerifyReport:
    """What was found.

    Attributes:
        problems: one line each, the first 50; empty if the run is what it says.
        rows_digest: SHA-256 of what must not depend on crashes, workers, retries or the size of
            units: src, src_row, status, codes and shape of every row, in order.
    """

    out: str
    units: int
    rows: int
    bad: int
    tokens: int
    problems: list[str]
    rows_digest: str

    def to_dict(self) -> dict:
        return asdict(self) | {"verified": not self.problems}

    def summary(self) -> str:
        """For a person."""
        if self.problems:
            return "\n".join([f"{self.out}: NOT as it should be", *self.problems])
        return (
            f"{self.out}: verified. {self.rows} rows in {self.units} files, each planned input "
            f"once and in order; {self.bad} bad, {self.tokens} tokens; rows digest "
            f"{self.rows_digest[:16]}"
        )


class _Verifier:
    """Sums over units, and what was wrong with them."""

    def __init__(self, content: dict):
        self.content = content
        self.sizes = texts.stored_sizes(content)
        self.problems: list[str] = []
        self.digests = defaultdict(hashlib.sha256)
        self.commits: list[dict] = []
        self.counts = [np.zeros(size, np.int64) for size in self.sizes]

    def problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    def unit(self, unit: Unit, name: str, data: bytes, written: dict | None) -> None:
        """One file: `written` is what the manifest says of it."""
        try:
            commit = texts.check_unit(data, name, unit.unit_id, unit.rows, self.content)
        except VqtokError as error:
            self.problem(str(error))
            return
        self.commits.append(commit)
        for key, value in (written or {}).items():
            if commit.get(key) != value:
                self.problem(f"{name}: {key} is {commit.get(key)!r}, vqtok.json says {value!r}")
        table = read_parquet(data)
        self._order(table, unit, name)
        self._rows(table, name)
        for level, counts in enumerate(count_codes(table["codes"], self.sizes)):
            self.counts[level] += counts
        for column in HASHED:
            self._hash(column, table[column])

    def _order(self, table: pa.Table, unit: Unit, name: str) -> None:
        """Each planned input once, in the order of the plan."""
        planned = [(p.uri, p.row_start + i) for p in unit.segments for i in range(p.row_count)]
        found = zip(table["src"].to_pylist(), table["src_row"].to_pylist(), strict=True)
        for number, (wanted, came) in enumerate(zip(planned, found, strict=True)):
            if wanted != came:
                self.problem(f"{name}: row {number} should be of {wanted}, and is of {came}")
                break
        if table["row"].to_pylist() != list(range(table.num_rows)):
            self.problem(f"{name}: its rows are not numbered from 0")
        if pc.any(pc.not_equal(table["unit"], unit.unit_id)).as_py():
            self.problem(f"{name}: a row says that it is of another unit")

    def _rows(self, table: pa.Table, name: str) -> None:
        """What must hold within a row."""
        good = pc.equal(table["status"], "ok")
        if not pc.all(pc.equal(good, pc.is_valid(table["codes"]))).as_py():
            self.problem(f"{name}: codes should be there exactly where the status is ok")
        shapes = table["shape"].to_pylist()
        lengths = pc.list_value_length(table["codes"]).to_pylist()
        for number, (shape, length) in enumerate(zip(shapes, lengths, strict=True)):
            fits = shape is None or (len(shape) > 1 and shape[0] == len(self.sizes))
            if not fits or (shape is not None and int(np.prod(shape)) != length):
                self.problem(f"{name}: row {number} has {length} codes and the shape {shape}")
                break

    def _hash(self, name: str, column: pa.ChunkedArray) -> None:
        """Values of a column, one after the other, however they were cut into files and groups."""
        for chunk in column.chunks:
            if pa.types.is_list(chunk.type):
                lengths = pc.fill_null(pc.list_value_length(chunk), -1)
                self._update(f"lengths of {name}", lengths)
                self._update(name, chunk.flatten())
            elif pa.types.is_integer(chunk.type):
                self._update(name, chunk)
            else:
                text = "".join(f"{value}\n" for value in chunk.to_pylist())
                self.digests[name].update(text.encode())

    def _update(self, name: str, values: pa.Array) -> None:
        self.digests[name].update(values.to_numpy(zero_copy_only=False).astype("<i8").tobytes())

    def rows_digest(self) -> str:
        parts = "".join(self.digests[name].hexdigest() for name in sorted(self.digests))
        return hashlib.sha256(parts.encode()).hexdigest()


def verify_run(folder: str | os.PathLike) -> VerifyReport:
    """Read a finished run once more and count.

    Raises:
        FormatError: there is no finished run, or its plan cannot be read.
    """
    run = open_run(folder)
    store = LocalStore(Path(folder))
    plan = stored_plan(store, run.content)
    verifier = _Verifier(run.content)
    written = {unit["unit"]: unit for unit in run.content["units"]}
    for unit in plan.units:
        name = plan.file_name(unit.unit_id)
        verifier.unit(unit, name, store.path(name).read_bytes(), written.get(unit.unit_id, {}))
    if len(written) != len(plan.units):
        verifier.problem(f"vqtok.json has {len(written)} units; the plan has {len(plan.units)}")
    strangers = sorted(
        path.name
        for path in store.path("data").glob("*")
        if f"data/{path.name}" not in {unit["file"] for unit in run.content["units"]}
    )
    if strangers:
        verifier.problem(f"data/ holds files of no unit: {strangers[:5]}")
    sums = texts.totals(verifier.commits)
    for key, value in run.content["totals"].items():
        if sums.get(key) != value:
            verifier.problem(f"the sum of {key} is {sums.get(key)!r}; vqtok.json says {value!r}")
    if texts.usage_summary(verifier.counts) != run.content["code_usage"]:
        verifier.problem("the codes are not used as vqtok.json says")
    return VerifyReport(
        out=str(folder),
        units=len(plan.units),
        rows=sums["rows"],
        bad=sums["bad"],
        tokens=sums["tokens"],
        problems=verifier.problems,
        rows_digest=verifier.rows_digest(),
    )


def stored_plan(store: LocalStore, content: dict) -> Plan:
    """The plan that a run was started with.

    Raises:
        FormatError: it is missing, or another one.
    """
    path = store.path(texts.PLAN)
    if not path.exists():
        raise FormatError(f"{path} is missing: what the run should hold is not known.")
    plan = Plan.from_parquet(path.read_bytes(), str(path))
    if plan.digest() != content["plan_hash"]:
        raise FormatError(f"{path} is not the plan that the run was made with.")
    return plan
