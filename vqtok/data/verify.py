"""Every byte of a run read once more: each planned input is there once, in order, and unchanged.

`verify_run` trusts nothing that the run says of itself where it can count: rows against the plan,
codes against their codebooks, files against their digests, and vqtok.json against what follows
from run.json and the files. It holds one row group at a time, however long the run is.
"""

import hashlib
import math
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from vqtok.data import manifest as texts
from vqtok.data.check import UNREADABLE, UnitCheck
from vqtok.data.parquet import read_parquet
from vqtok.data.plan import Plan, Unit
from vqtok.data.progress import progress_of
from vqtok.data.publish import STATE, LocalStore
from vqtok.data.reader import open_run, read_content
from vqtok.errors import FormatError, VqtokError

MAX_PROBLEMS = 50  # told one by one
HASHED = ("src", "src_row", "status", "codes", "shape")
TOLERANCE = 1e-9  # of sums of logarithms, which may round otherwise on another machine


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

    def __init__(self, store: LocalStore, run: dict, plan: Plan):
        self.store, self.run, self.plan = store, run, plan
        self.problems: list[str] = []
        self.digests = defaultdict(hashlib.sha256)
        self.commits: list[dict] = []
        self.counts = [np.zeros(size, np.int64) for size in texts.stored_sizes(run)]

    def problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    def unit(self, unit: Unit) -> None:
        """One file, and its commit."""
        name = self.plan.file_name(unit.unit_id)
        check = UnitCheck(self.run, unit, name)
        try:
            if not self.store.path(name).is_file():
                raise FormatError(f"{name} is missing.")
            for table in check.groups(self.store.path(name)):
                for column in HASHED:
                    self._hash(column, table[column])
        except VqtokError as error:
            self.problem(str(error))
        else:
            commit = check.commit()
            self.commits.append(commit)
            for total, count in zip(self.counts, check.counts, strict=True):
                total += count
            self._commit(name, commit)
        for text in check.problems:
            self.problem(text)

    def files(self) -> None:
        """Nothing in data/ and among the commits that no unit of the plan has."""
        units = range(len(self.plan.units))
        for folder, names in (
            ("data", map(self.plan.file_name, units)),
            (f"{STATE}/commits", map(texts.commit_name, units)),
        ):
            found = {f"{folder}/{path.name}" for path in self.store.path(folder).glob("*")}
            if strangers := sorted(found - set(names)):
                self.problem(f"{folder}/ holds files of no unit: {strangers[:5]}")

    def manifest(self, content: dict) -> None:
        """vqtok.json and what lies beside it, if all units could be counted."""
        planned = {"units": len(self.plan.units), "rows": self.plan.rows}
        self._json(texts.RUN, planned, "the plan has")
        wanted = dict(self.run)
        if len(self.commits) < len(self.plan.units):
            self.problem("not all files could be counted, so vqtok.json is not compared with them")
            del wanted["units"]
        else:
            usage = texts.usage_summary(self.counts)
            wanted = texts.new_manifest(self.run, self.commits, usage)
            self._usage()
            self._card(wanted)
            if strange := sorted(set(content) - set(wanted)):
                self.problem(f"vqtok.json has entries that vqtok does not write: {strange}")
        for key, value in wanted.items():
            source = (
                "run.json has" if key in self.run and key != "units" else "from the files it is"
            )
            if place := difference(content.get(key), value):
                where, said, is_so = place
                self.problem(f"vqtok.json says {key}{where}: {said!r:.80}; {source} {is_so!r:.80}")
        self._json(texts.POINTER, self.run["tokenizer"], "run.json has")

    def _commit(self, file: str, commit: dict) -> None:
        """What was counted beside what was written down when the file was published."""
        self._json(texts.commit_name(commit["unit"]), commit, f"{file} has")

    def _json(self, name: str, wanted: dict, source: str) -> None:
        """The first thing in a JSON file that is not as it should be; more keys may be there."""
        try:
            found = self.store.read_json(name)
        except FormatError as error:
            self.problem(str(error))
            return
        known = {key: found.get(key) for key in wanted} if isinstance(found, dict) else found
        if place := difference(known, wanted):
            where, said, is_so = place
            self.problem(f"{name} says {where.lstrip('.')}: {said!r:.80}; {source} {is_so!r:.80}")

    def _usage(self) -> None:
        """The counts of all codes."""
        try:
            found = read_parquet(self.store.path(texts.USAGE).read_bytes())
            same = found.equals(read_parquet(texts.usage_table(self.counts)))
        except UNREADABLE as error:
            self.problem(f"{texts.USAGE} cannot be read: {error}")
        else:
            if not same:
                self.problem(f"{texts.USAGE} does not have the counts of the codes")

    def _card(self, manifest: dict) -> None:
        """The part of the README by which `datasets` and the Hub find the files."""
        try:
            found = front_matter(self.store.path("README.md").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            self.problem(f"README.md cannot be read: {error}")
            return
        wanted = front_matter(texts.card(manifest, self.store.root.name))["configs"]
        if not isinstance(found, dict) or found.get("configs") != wanted:
            self.problem("README.md does not name the files of the run (configs at its top)")

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


def verify_run(folder: str | os.PathLike, progress: bool | str = False) -> VerifyReport:
    """Read a finished run once more and count.

    Args:
        folder: of the run.
        progress: "bar" (or True), "json" or "none" (or False), on stderr.

    Raises:
        FormatError: there is no finished run, or its plan or run.json cannot be read.
    """
    store = LocalStore(Path(folder))
    if not store.exists(texts.MANIFEST):
        open_run(folder)  # says what there is instead
    content = read_content(store, texts.MANIFEST)
    verifier = _Verifier(store, read_content(store, texts.RUN), stored_plan(store, content))
    with progress_of(verifier.plan.rows, progress, "verify") as on_rows:
        for unit in verifier.plan.units:
            verifier.unit(unit)
            on_rows(unit.rows)
    verifier.files()
    verifier.manifest(content)
    sums = texts.totals(verifier.commits)
    return VerifyReport(
        out=str(folder),
        units=len(verifier.plan.units),
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
    try:
        plan = Plan.from_parquet(path.read_bytes(), str(path))
    except UNREADABLE as error:
        raise FormatError(f"{path} cannot be read: {error}.") from error
    if plan.digest() != content["plan_hash"]:
        raise FormatError(f"{path} is not the plan that the run was made with.")
    return plan


def difference(found: Any, wanted: Any) -> tuple[str, Any, Any] | None:
    """(where, what is there, what should be) of the first difference of two JSON values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [*wanted, *(key for key in found if key not in wanted)]
        inner = ((f".{key}", found.get(key), wanted.get(key)) for key in keys)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = zip(found, wanted, strict=True)
        inner = ((f"[{index}]", *pair) for index, pair in enumerate(pairs))
    elif isinstance(found, float) and isinstance(wanted, float):
        same = math.isclose(found, wanted, rel_tol=TOLERANCE)
        return None if same else ("", found, wanted)
    else:
        return None if found == wanted and type(found) is type(wanted) else ("", found, wanted)
    for where, came, right in inner:
        if place := difference(came, right):
            return (where + place[0], *place[1:])
    return None


def front_matter(text: str) -> Any:
    """The YAML between the two lines of dashes at the top of a card."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("it does not begin with YAML between two lines of ---")
    return yaml.safe_load(parts[1])
