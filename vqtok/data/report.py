"""What a run took and what it gave: stages, what it is bound by, codebooks, bytes, bad inputs."""

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from vqtok.data import manifest as texts
from vqtok.data.check import UNREADABLE
from vqtok.data.parquet import read_parquet
from vqtok.data.publish import LocalStore
from vqtok.data.reader import StoredRun, batch_rows, open_run
from vqtok.data.schema import count_codes
from vqtok.data.stages import stage_table, stragglers, timeline, worker_table
from vqtok.data.status import read_commits
from vqtok.devices import EXACT
from vqtok.errors import FormatError

MAX_EXAMPLES = 20
SAMPLED_FILES = 16  # of an unfinished run, to see how its codebooks are used
CURVE_POINTS = 64


@dataclass(frozen=True)
class RunReport:
    """Of a run, finished or not.

    Attributes:
        units: files that are there, of `units_planned`.
        seconds: of all workers together; `wall_seconds` from the first to the last unit, without
            the breaks between interrupted runs, or None if the commits do not say.
        rows_per_second: of a worker's time; tokens_per_second likewise.
        times_real_time: seconds of sound for a worker's second; None for other inputs.
        stages: for each stage its seconds in all, its share, and median and 95th percentile of
            the units.
        verdict: what the run is bound by, in words; `numerics`: its profile and what that gives.
        workers: units and seconds of each; `worker_ends`: workers that ended on a unit, which was
            then made again; `adopted`: units whose worker is not known, found after a crash.
        stragglers: units that took far longer a row than others.
        timeline: [seconds since the first unit, rows so far].
        bytes_per_token: of the files; `least_bytes_per_token` is log2 K / 8, the mean of levels.
        codebooks: health of each level, from `codebooks_from`.
        curves: for each level how often codes occur, the most frequent first, in times of an even
            use: [share of the codebook, times].
        bad: rows of each status other than ok, and the first few with their errors.
    """

    out: str
    tokenizer: str
    modality: str
    numerics: str
    finished: bool
    units: int
    units_planned: int
    rows: int
    rows_planned: int
    tokens: int
    bytes: int
    seconds: float
    wall_seconds: float | None
    rows_per_second: float | None
    tokens_per_second: float | None
    times_real_time: float | None
    stages: list[dict]
    verdict: str
    workers: list[dict]
    worker_ends: int
    adopted: int
    stragglers: list[dict]
    timeline: list[list[float]]
    bytes_per_token: float | None
    least_bytes_per_token: float
    codebooks: list[dict]
    codebooks_from: str
    curves: list[list[list[float]]]
    bad: dict[str, int]
    examples: list[dict]
    software: dict[str, str]

    def to_dict(self) -> dict:
        return asdict(self)


def run_report(folder: str | os.PathLike) -> RunReport:
    """Everything that a run's commits, manifest and bad rows say.

    Raises:
        FormatError: there is no run, or a commit is damaged.
    """
    run = open_run(folder, allow_incomplete=True)
    store = LocalStore(Path(folder))
    commits = read_commits(store)
    # a finished run says itself what it holds, even if commits were lost
    units = run.content["units"] if run.finished else commits
    sums = {key: sum(unit[key] for unit in units) for key in ("rows", "tokens", "bytes")}
    sizes = run.codebook_sizes
    counts, counted = code_counts(run, store)
    return RunReport(
        out=str(folder),
        tokenizer=run.tokenizer["name"] or run.tokenizer["class"],
        modality=run.tokenizer["modality"],
        numerics=texts.numerics_in_words(run.content.get("numerics", {"profile": EXACT})),
        finished=run.finished,
        units=len(units),
        units_planned=len(units) if run.finished else run.content["units"],
        rows_planned=run.content["rows"],
        **sums,
        **_speeds(run, commits),
        worker_ends=sum(commit.get("worker_ends", 0) for commit in commits),
        adopted=len(units) - sum("seconds" in commit for commit in commits),
        bytes_per_token=sums["bytes"] / sums["tokens"] if sums["tokens"] else None,
        least_bytes_per_token=sum(math.log2(size) for size in sizes) / len(sizes) / 8,
        codebooks=run.content.get("code_usage") or texts.usage_summary(counts),
        codebooks_from=counted,
        curves=[usage_curve(count) for count in counts],
        bad=_bad(commits, run),
        examples=bad_examples(run, units),
        software=run.content["software"],
    )


def _speeds(run: StoredRun, commits: Sequence[dict]) -> dict[str, Any]:
    """The fields that follow from the commits that say what they took."""
    timed = [commit for commit in commits if "seconds" in commit]
    stages, verdict = stage_table(timed)
    seconds = sum(stage["seconds"] for stage in stages if stage["where"] == "worker")
    rows, tokens = (sum(commit[key] for commit in timed) for key in ("rows", "tokens"))
    per_second = texts.tokens_per_second(run.content)
    line, wall = timeline(timed)
    return {
        "seconds": round(seconds, 3),
        "wall_seconds": wall,
        "rows_per_second": rows / seconds if seconds else None,
        "tokens_per_second": tokens / seconds if seconds else None,
        "times_real_time": tokens / per_second / seconds if seconds and per_second else None,
        "stages": stages,
        "verdict": verdict,
        "workers": worker_table(timed),
        "stragglers": stragglers(timed),
        "timeline": line,
    }


def _bad(commits: Sequence[dict], run: StoredRun) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for counted in [run.content["totals"]] if run.finished else commits:
        for status, count in counted["status"].items():
            found[status] += count if status != "ok" else 0
    return {status: count for status, count in sorted(found.items()) if count}


def code_counts(run: StoredRun, store: LocalStore) -> tuple[list[np.ndarray], str]:
    """How often each code occurs, and in what: all files, or some of an unfinished run.

    Raises:
        FormatError: a file cannot be read.
    """
    sizes = run.codebook_sizes
    counts = [np.zeros(size, np.int64) for size in sizes]
    try:
        if run.finished:
            if store.exists(texts.USAGE):
                table = read_parquet(store.path(texts.USAGE))
                level, count = (table[name].to_numpy() for name in ("codebook", "count"))
                counts = [count[level == index] for index in range(len(sizes))]
            return counts, "all files"
        step = max(1, -(-len(run.files) // SAMPLED_FILES))
        files = run.files[::step]
        for path in files:
            found = count_codes(read_parquet(path, ["codes"])["codes"], sizes)
            for total, one in zip(counts, found, strict=True):
                total += one[: len(total)]
    except UNREADABLE as error:
        raise FormatError(f"{run.root} cannot be read: {error}. Try `vqtok verify`.") from error
    return counts, f"{len(files)} of {len(run.files)} files"


def usage_curve(counts: np.ndarray) -> list[list[float]]:
    """[share of the codebook, how often in times of an even use], the most frequent code first."""
    total = int(counts.sum())
    if not total:
        return []
    ordered = np.sort(counts)[::-1] * (len(counts) / total)
    # close together at the beginning, where the curve is steep
    places = np.unique(np.geomspace(1, len(ordered), CURVE_POINTS).astype(int)) - 1
    return [[round((p + 1) / len(ordered), 6), round(float(ordered[p]), 6)] for p in places]


def bad_examples(run: StoredRun, units: Sequence[dict]) -> list[dict]:
    """The first rows without codes."""
    found: list[dict] = []
    names = {unit["file"] for unit in units if unit["bad"]}
    columns = ["src", "src_row", "status", "error"]
    for path in run.files:
        if path.relative_to(run.root).as_posix() not in names:
            continue
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=columns, use_threads=False):
                    found += (row for row in batch_rows(batch) if row["status"] != "ok")
                    if len(found) >= MAX_EXAMPLES:
                        return found[:MAX_EXAMPLES]
        except UNREADABLE as error:
            raise FormatError(f"{path} cannot be read: {error}. Try `vqtok verify`.") from error
    return found
