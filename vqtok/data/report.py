"""What a run took and what it gave: stages, what it is bound by, codebooks, bytes, bad inputs."""

import math
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from vqtok.data.manifest import stored_sizes
from vqtok.data.publish import LocalStore
from vqtok.data.reader import StoredRun, open_run
from vqtok.data.status import committed

MAX_EXAMPLES = 20
# stages in the worker, then in the driver
WORKER_STAGES = ("read", "tokenize", "write")
DRIVER_STAGES = ("check", "publish")
# share of the workers' time above which a stage is what the run is bound by
BOUND = 0.5
ADVICE = {
    "read": "reading-bound: the storage is slower than the tokenizer",
    "tokenize": "tokenizer-bound (decoding and encoding): more --workers, a larger --batch-size, "
    "or a faster device help",
    "write": "writing-bound: parquet takes longer than the codes",
    "": "not bound by one stage",
}


@dataclass(frozen=True)
class RunReport:
    """Of a run, finished or not.

    Attributes:
        rows_per_second: of a worker's time, all workers together divided by how many there were.
        stages: for each stage its seconds in all, its share, and median and 95th percentile of
            the units.
        verdict: what the run is bound by, in words.
        workers: units and seconds of each.
        bytes_per_token: of the files; `least_bytes_per_token` is log2 K / 8, the mean of levels.
        codebooks: health of each level; empty for an unfinished run.
        bad: rows of each status other than ok, and the first few with their errors.
    """

    out: str
    tokenizer: str
    modality: str
    finished: bool
    units: int
    rows: int
    tokens: int
    bytes: int
    seconds: float
    rows_per_second: float | None
    stages: list[dict]
    verdict: str
    workers: list[dict]
    bytes_per_token: float | None
    least_bytes_per_token: float
    codebooks: list[dict]
    bad: dict[str, int]
    examples: list[dict]
    software: dict[str, str]

    def to_dict(self) -> dict:
        return asdict(self)


def run_report(folder: str | os.PathLike) -> RunReport:
    """Everything that a run's commits, manifest and bad rows say.

    Raises:
        FormatError: there is no run.
    """
    run = open_run(folder, allow_incomplete=True)
    store = LocalStore(Path(folder))
    commits = [store.read_json(name) for name in committed(store)]
    sums = {key: sum(commit[key] for commit in commits) for key in ("rows", "tokens", "bytes")}
    stages, verdict = stage_table(commits)
    seconds = sum(stage["seconds"] for stage in stages if stage["stage"] in WORKER_STAGES)
    sizes = stored_sizes(run.content)
    bad: dict[str, int] = defaultdict(int)
    for commit in commits:
        for status, count in commit["status"].items():
            bad[status] += count if status != "ok" else 0
    return RunReport(
        out=str(folder),
        tokenizer=run.tokenizer["name"] or run.tokenizer["class"],
        modality=run.tokenizer["modality"],
        finished=run.finished,
        units=len(commits),
        **sums,
        seconds=round(seconds, 3),
        rows_per_second=sums["rows"] / seconds if seconds else None,
        stages=stages,
        verdict=verdict,
        workers=worker_table(commits),
        bytes_per_token=sums["bytes"] / sums["tokens"] if sums["tokens"] else None,
        least_bytes_per_token=sum(math.log2(size) for size in sizes) / len(sizes) / 8,
        codebooks=run.content.get("code_usage", []),
        bad={status: count for status, count in sorted(bad.items()) if count},
        examples=bad_examples(run, sum(bad.values())),
        software=run.content["software"],
    )


def stage_table(commits: list[dict]) -> tuple[list[dict], str]:
    """Seconds by stage, and what the run is bound by."""
    timed = [commit["seconds"] for commit in commits if "seconds" in commit]
    worked = sum(unit.get(stage, 0.0) for unit in timed for stage in WORKER_STAGES)
    rows, verdict = [], ""
    for stage in (*WORKER_STAGES, *DRIVER_STAGES):
        values = sorted(unit.get(stage, 0.0) for unit in timed)
        if not values:
            continue
        total = sum(values)
        share = total / worked if worked else 0.0
        rows.append(
            {
                "stage": stage,
                "where": "worker" if stage in WORKER_STAGES else "driver",
                "seconds": round(total, 3),
                "share": round(share, 4),
                "median": values[len(values) // 2],
                "p95": values[min(len(values) - 1, int(0.95 * len(values)))],
            }
        )
        if stage in WORKER_STAGES and share > BOUND:
            verdict = stage
    return rows, ADVICE[verdict]


def worker_table(commits: list[dict]) -> list[dict]:
    """Units and seconds of each worker."""
    units: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for commit in commits:
        if commit.get("worker"):
            units[commit["worker"]] += 1
            seconds[commit["worker"]] += sum(commit["seconds"].get(s, 0.0) for s in WORKER_STAGES)
    return [
        {"worker": name, "units": units[name], "seconds": round(seconds[name], 3)}
        for name in sorted(units)
    ]


def bad_examples(run: StoredRun, count: int) -> list[dict]:
    """The first rows without codes."""
    found: list[dict] = []
    if count:
        for row in run.rows(["src", "src_row", "status", "error"]):
            if row["status"] != "ok":
                found.append(row)
                if len(found) >= min(count, MAX_EXAMPLES):
                    break
    return found
