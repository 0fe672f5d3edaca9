"""How far a run is: what its commits say, without reading a single code."""

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from vqtok.data.plan import build_plan
from vqtok.data.publish import STATE, LocalStore
from vqtok.data.reader import UNIT_FORM, misfit, open_run
from vqtok.data.sources import open_source
from vqtok.data.verify import stored_plan
from vqtok.errors import FormatError

COMMIT_FORM = UNIT_FORM | {"status": dict}


@dataclass(frozen=True)
class StatusReport:
    """Of a run, finished or not.

    Attributes:
        units: planned; `units_done` are published, `rows_done` the rows in them.
        tokens: so far.
        status: rows of each status so far.
        running: whether a process holds the run's lock right now; None where that is not known.
        next_missing: the first units that are missing, by number.
    """

    out: str
    finished: bool
    running: bool | None
    units: int
    units_done: int
    rows: int
    rows_done: int
    tokens: int
    bytes: int
    status: dict[str, int]
    next_missing: list[int]

    def to_dict(self) -> dict:
        return asdict(self)

    def summary(self) -> str:
        """For a person."""
        state = "finished" if self.finished else "running" if self.running else "not finished"
        bad = {name: count for name, count in self.status.items() if name != "ok"}
        lines = [
            f"{self.out}: {state}, {self.units_done} of {self.units} files, "
            f"{self.rows_done} of {self.rows} rows, {self.tokens} tokens in {self.bytes} bytes"
        ]
        lines += [f"bad inputs so far: {bad}"] if bad else []
        if not self.finished and not self.running:
            lines.append("go on with `vqtok tokenize ... --resume`")
        return "\n".join(lines)


def run_status(folder: str | os.PathLike) -> StatusReport:
    """How far a run is.

    Raises:
        FormatError: there is no run.
    """
    run = open_run(folder, allow_incomplete=True)
    store = LocalStore(Path(folder))
    plan = stored_plan(store, run.content)
    commits = read_commits(store)
    done = {unit.unit_id for unit in plan.units if store.exists(plan.file_name(unit.unit_id))}
    status: Counter[str] = Counter()
    for commit in commits:
        status.update(commit["status"])
    return StatusReport(
        out=str(folder),
        finished=run.finished,
        running=None if run.finished else store.is_locked(),
        units=len(plan.units),
        units_done=len(done),
        rows=plan.rows,
        rows_done=sum(unit.rows for unit in plan.units if unit.unit_id in done),
        tokens=sum(commit["tokens"] for commit in commits),
        bytes=sum(commit["bytes"] for commit in commits),
        status=dict(sorted(status.items())),
        next_missing=[unit.unit_id for unit in plan.units if unit.unit_id not in done][:10],
    )


def read_commits(store: LocalStore) -> list[dict]:
    """The commits of a run, in the order of its units.

    Raises:
        FormatError: one is damaged.
    """
    folder = store.path(f"{STATE}/commits")
    commits = []
    for path in sorted(folder.glob("*.json")):
        commit = store.read_json(f"{STATE}/commits/{path.name}")
        if wrong := misfit(commit, COMMIT_FORM):
            raise FormatError(f"{path} is damaged: {wrong}. Remove it and resume the run.")
        commits.append(commit)
    return commits


@dataclass(frozen=True)
class PlanReport:
    """What tokenizing a source would come to; nothing is written.

    Attributes:
        files: that hold inputs; `ignored` others do not.
        bytes: of the files.
        plan_hash: of the plan, as run.json would have it.
    """

    source: str
    kind: str
    files: int
    ignored: int
    bytes: int
    rows: int
    units: int
    unit_rows: int
    plan_hash: str

    def to_dict(self) -> dict:
        return asdict(self)

    def summary(self) -> str:
        """For a person."""
        return (
            f"{self.source} ({self.kind}): {self.rows} inputs in {self.files} files of "
            f"{self.bytes} bytes, {self.ignored} other files ignored; {self.units} units of at "
            f"most {self.unit_rows} rows, plan {self.plan_hash[:16]}"
        )


def plan_dataset(
    source: str | os.PathLike,
    modality: str = "image",
    unit_rows: int | None = None,
    column: str | None = None,
) -> PlanReport:
    """Look at a source as `tokenize_dataset` would.

    Raises:
        InputError: nothing to tokenize.
        ConfigError: an option that cannot be obeyed.
    """
    opened = open_source(source, modality, column)
    shards = opened.list()
    plan = build_plan(shards, unit_rows)
    return PlanReport(
        source=str(source),
        kind=opened.kind,
        files=len(shards),
        ignored=opened.ignored,
        bytes=sum(shard.size for shard in shards),
        rows=plan.rows,
        units=len(plan.units),
        unit_rows=plan.unit_rows,
        plan_hash=plan.digest(),
    )
