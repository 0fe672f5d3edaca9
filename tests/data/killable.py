"""Runs that a failpoint or a signal may kill, in processes forked from one that has torch already.

`python -m tests.data.killable` is that one: it reads a run per line and answers with its exit code.
Neither side waits against a clock, and what a run says on stderr is kept for the failure. Workers
of these runs are forked too, which is quick, and safe where nothing has used a thread yet.
"""

import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import tests.data.fake_crashes as tokenizers
import vqtok.data.processes
from vqtok.data import Execution, tokenize_dataset
from vqtok.data.failpoints import EXIT_CODE

REPOSITORY = Path(__file__).parents[2]
KILLED = -signal.SIGKILL
ENDS = (0, EXIT_CODE, KILLED)


class KillableRuns:
    """Starts runs, each in a process of its own; their stderr goes to the file `log`."""

    def __init__(self, log: Path):
        self.log = log
        self.server: subprocess.Popen | None = None

    def __call__(
        self, source: Path, out: Path, fail: str = "", resume: bool = False, **more
    ) -> int:
        """Tokenize in a process that may be killed; returns its exit code.

        Args:
            fail: a failpoint that ends it.
            resume: go on with the run in `out`.
            more: `file_bytes`, no file may grow beyond them; `may_fail`, code 1 is an answer too,
                as it is then; `tokenizer`, a name in `tests.data.fake_crashes`; `unit_rows`,
                `workers`, `stall_timeout`, `share`; `once`, a file: the failpoint ends only the
                first process that gets there; `report`, a file for what the run came to;
                `copy_to`, a folder for a copy of the finished run;
                `kill`: [who, units], once so many units are published: the "driver", a "worker" or
                all "workers" are killed, "stop" stops a worker, "pause" the driver, "" nobody, and
                "itself" waits until the driver has stopped itself;
                `meanwhile`, the options of another run in the same folder, from then to its end,
                before a paused driver goes on.
        """
        if self.server is None or self.server.poll() is not None:
            self.start()
        asked = {"source": str(source), "out": str(out), "fail": fail, "resume": resume} | more
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline().strip()
        if not answer or not as_asked(asked, int(answer)):
            # neither finished nor killed on purpose
            raise RuntimeError(f"a run ended with {answer or 'its server'}: {self.log.read_text()}")
        return int(answer)

    def start(self) -> None:
        self.stop()
        with self.log.open("w") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "tests.data.killable"],
                cwd=REPOSITORY, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def stop(self) -> None:
        if self.server is not None:
            self.server.communicate()  # the end of its input ends it


def as_asked(asked: dict, code: int) -> bool:
    return code in ENDS or (code == 1 and ("file_bytes" in asked or "may_fail" in asked))


def tokenize_or_die(asked: dict) -> None:
    os.environ["VQTOK_FAIL"], os.environ["VQTOK_FAIL_ONCE"] = asked["fail"], asked.get("once", "")
    vqtok.data.processes.START_METHOD = "fork"
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if "file_bytes" in asked:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_bytes"],) * 2)
    index, total = asked.get("share", (None, None))
    execution = Execution(
        "local" if total is None else "shard",
        asked.get("workers", 1),
        asked.get("stall_timeout", 600.0),
        index,
        total,
    )
    tokenizer = getattr(tokenizers, asked.get("tokenizer", "FakeTokenizer"))()
    report = tokenize_dataset(
        asked["source"],
        asked["out"],
        tokenizer,
        unit_rows=asked.get("unit_rows", 4),
        resume=asked["resume"],
        executor=execution,
    )
    if "copy_to" in asked:
        shutil.copytree(asked["out"], asked["copy_to"])
    if "report" in asked:
        Path(asked["report"]).write_text(json.dumps(report.to_dict()))


def run(asked: dict) -> int:
    """A run and what is done to it, to the end of the last of its processes; its exit code."""
    theirs, own = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=tokenize_or_die, args=(asked,))
    process.start()
    os.close(own)
    if "kill" in asked:
        strike(process, Path(asked["out"]), *asked["kill"])
    if "meanwhile" in asked:
        same = {name: asked[name] for name in ("source", "out", "fail", "resume")}
        try:
            other = run(same | asked["meanwhile"])
        finally:
            signalled(process.pid, signal.SIGCONT)
        if not as_asked(asked["meanwhile"], other):
            raise RuntimeError(f"the run meanwhile ended with {other}")
    process.join()
    # workers hold this pipe, and the driver's lock, until they have seen that their driver is gone
    os.read(theirs, 1)
    os.close(theirs)
    return process.exitcode


def strike(driver: multiprocessing.Process, out: Path, who: str, units: int) -> None:
    """Sends a signal as soon as so many units are there; a run that is over is left alone."""
    while driver.is_alive() and len(list(out.glob("data/*.parquet"))) < units:
        time.sleep(0.002)
    if not who:
        return
    if who == "itself":
        os.waitid(os.P_PID, driver.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return
    if who in ("driver", "pause"):
        signalled(driver.pid, signal.SIGKILL if who == "driver" else signal.SIGSTOP)
        return
    try:
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
    except (ProcessLookupError, FileNotFoundError):
        return
    for child in children if who == "workers" else children[:1]:
        signalled(int(child), signal.SIGSTOP if who == "stop" else signal.SIGKILL)


def signalled(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a run prints is no answer
    for line in sys.stdin:
        print(run(json.loads(line)), file=answers, flush=True)


if __name__ == "__main__":
    serve()
