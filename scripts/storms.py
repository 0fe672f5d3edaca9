"""Runs of the real command that are killed on their way, and must come to the same rows.

Part of `scripts/prove_pipeline.sh`. Linux only: it reads /proc.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vqtok.data import plan_dataset, run_status, verify_run
from vqtok.data.failpoints import EXIT_CODE, POINTS
from vqtok.data.verify import VerifyReport

REPOSITORY = Path(__file__).resolve().parents[1]
RUN_VQTOK = "from vqtok.cli import app; app()"  # what the program `vqtok` does
TOKENIZER = "vqtok/vim-vq-tiny"
UNITS = 12  # of a run over real data
BLOWS = 3  # a storm
ATTEMPTS = 6


class NotProved(Exception):
    """What should have held, and did not."""


@dataclass(frozen=True)
class Options:
    """How runs are carried out."""

    work: Path
    workers: int
    batch_size: int | None

    def command(self, source: Path, out: Path, unit_rows: int, workers: int | None = None) -> list:
        batch = () if self.batch_size is None else ("--batch-size", self.batch_size)
        return [
            "tokenize", source, "-t", TOKENIZER, "-o", out, "--unit-rows", unit_rows,
            "--workers", workers or self.workers, *batch,
        ]  # fmt: skip


def start(log: Path, *arguments, **environment: str) -> subprocess.Popen:
    """`vqtok ...` in a process of its own."""
    command = [sys.executable, "-c", RUN_VQTOK, *map(str, arguments)]
    with log.open("a") as said:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=os.environ | environment, stdout=said, stderr=said
        )


def vqtok(*arguments) -> dict:
    """`vqtok ... --json`, to its end."""
    command = [sys.executable, "-c", RUN_VQTOK, *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise NotProved(f"vqtok {arguments[0]} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def published(out: Path) -> int:
    return len(list(out.glob("data/*.parquet")))


def children_of(process: int, kind: bytes) -> list[int]:
    """Children of a process whose command line has a word of multiprocessing's."""
    found = []
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            for child in tasks.read_text().split():
                if kind in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def workers_of(driver: subprocess.Popen) -> list[int]:
    """Started by the driver itself, or forked from its server of forks."""
    servers = children_of(driver.pid, b"forkserver")
    forked = [child for server in servers for child in children_of(server, b"forkserver")]
    return children_of(driver.pid, b"spawn_main") + forked


def wait_until(driver: subprocess.Popen, condition: Callable[[], bool]) -> bool:
    """False if the run was over first."""
    while not condition():
        if driver.poll() is not None:
            return False
        time.sleep(0.005)
    return driver.poll() is None


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


@dataclass(frozen=True)
class Clean:
    """A run that nothing disturbed."""

    digest: str
    seconds: float


def clean_run(command: Sequence, out: Path) -> Clean:
    started = time.monotonic()
    vqtok(*command)
    seconds = time.monotonic() - started
    return Clean(verified(out).rows_digest, seconds)


def verified(out: Path) -> VerifyReport:
    report = verify_run(out)
    if report.problems:
        raise NotProved("\n".join(report.problems))
    if left_over := list((out / ".vqtok/tmp").iterdir()):
        raise NotProved(f"{out} has rubbish in .vqtok/tmp: {left_over[:3]}")
    return report


def same_rows(out: Path, clean: Clean) -> VerifyReport:
    report = verified(out)
    if report.rows_digest != clean.digest:
        raise NotProved(f"{out} has other rows than a run that nothing disturbed")
    return report


def storm(options: Options, source: Path, clean: Clean, seed: int) -> str:
    """Blows at places of the run that a seed chooses, one of them at least met, then peace."""
    choose = random.Random(seed)
    for attempt in range(ATTEMPTS):
        told = one_storm(options, source, clean, choose, f"storm-{seed}-{attempt}")
        if told:
            return told
        # every blow came after the end: the clean run was slower than these
        clean = replace(clean, seconds=clean.seconds / 2)
    raise NotProved(f"storm {seed}: no blow met a run in {ATTEMPTS} attempts")


def one_storm(
    options: Options, source: Path, clean: Clean, choose: random.Random, name: str
) -> str:
    """Up to three blows, then to the end; returns those that met the run."""
    out, log, told = options.work / name, options.work / f"{name}.log", []
    command = options.command(source, out, unit_rows=4)
    for number in range(BLOWS):
        if (out / "vqtok.json").exists():
            break  # a worker's end does not stop a run
        blow = choose.choice([failpoint_blow, timed_blow, timed_blow, placed_blow, worker_blow])
        code, met, where = blow(
            choose, clean, out, lambda **env: start(log, *command, "--resume", **env)
        )
        if met:
            told.append(where)
        if code not in (0, EXIT_CODE, -signal.SIGKILL):
            raise NotProved(f"blow {number} ({where}) ended with {code}: {log.read_text()[-2000:]}")
    vqtok(*command, "--resume")
    same_rows(out, clean)
    return ", ".join(told)


# each returns the exit code, whether it met the run, and where


def failpoint_blow(choose: random.Random, clean: Clean, out: Path, begin) -> tuple[int, bool, str]:
    """The program ends itself at a failpoint; a worker there only once."""
    point = choose.choice(POINTS)
    with tempfile.TemporaryDirectory() as marks:
        once = Path(marks) / "once"
        code = begin(VQTOK_FAIL=point, VQTOK_FAIL_ONCE=str(once)).wait()
        return code, code == EXIT_CODE or once.exists(), point


def timed_blow(choose: random.Random, clean: Clean, out: Path, begin) -> tuple[int, bool, str]:
    """kill -9 of the driver at any time, from loading libraries to the manifest."""
    driver, seconds = begin(), choose.uniform(0, clean.seconds)
    end = time.monotonic() + seconds
    if wait_until(driver, lambda: time.monotonic() > end):
        driver.kill()
    return driver.wait(), driver.returncode != 0, f"driver at {seconds:.1f} s"


def placed_blow(choose: random.Random, clean: Clean, out: Path, begin) -> tuple[int, bool, str]:
    """kill -9 of the driver as soon as a file of the run is there."""
    place = choose.choice(
        [".vqtok/run.json", ".vqtok/plan.parquet", ".vqtok/commits/*", "README.md"]
        + [f"data/*{number:05d}-of-*" for number in (0, 3, 7, 11, 14)]
    )
    driver = begin()
    if wait_until(driver, lambda: any(out.glob(place))):
        driver.kill()
    return driver.wait(), driver.returncode != 0, f"driver at {place}"


def worker_blow(choose: random.Random, clean: Clean, out: Path, begin) -> tuple[int, bool, str]:
    """kill -9 of a worker, from its first moment on, or of what workers are forked from."""
    driver, seconds = begin(), choose.uniform(0, clean.seconds / 4)
    server, found = choose.random() < 0.25, []
    if wait_until(driver, lambda: bool(workers_of(driver))):
        time.sleep(seconds)
        found = children_of(driver.pid, b"forkserver") if server else workers_of(driver)
        for process in found[:1]:
            kill(process)
    where = f"{'fork server' if server else 'worker'} after {seconds:.1f} s"
    return driver.wait(), bool(found), where


def twice_killed(options: Options, name: str, source: Path) -> str:
    """A whole dataset, with a kill -9 of a worker, and later of the driver, and then resumed."""
    rows = plan_dataset(source).rows
    unit_rows = math.ceil(rows / UNITS)
    clean_out, out = options.work / f"{name}-clean", options.work / name
    log = options.work / f"{name}.log"
    clean = clean_run(options.command(source, clean_out, unit_rows, workers=1), clean_out)
    command = options.command(source, out, unit_rows)
    begun = time.monotonic()
    driver = start(log, *command)
    struck = wait_until(driver, lambda: published(out) >= UNITS // 4) and workers_of(driver)
    if struck:
        kill(struck[0])
    struck = struck and wait_until(driver, lambda: published(out) >= UNITS // 2)
    driver.kill()
    if not struck or driver.wait() != -signal.SIGKILL or "a worker ended" not in log.read_text():
        raise NotProved(f"the run was not killed twice on its way: {log.read_text()[-2000:]}")
    there = run_status(out).units_done
    resumed = vqtok(*command, "--resume")
    seconds = time.monotonic() - begun
    report = same_rows(out, clean)
    if resumed["resumed_units"] != there:
        raise NotProved(f"{there} files were there; the resume found {resumed['resumed_units']}")
    return (
        f"{report.rows} rows, {report.bad} bad, {there} of {resumed['units']} files kept; "
        f"{seconds:.0f} s with both kills and {options.workers} workers, {clean.seconds:.0f} s "
        "undisturbed with one; same digest"
    )
