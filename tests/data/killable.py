"""Runs that a failpoint or a signal may kill, in processes forked from one that has torch already.

`python -m tests.data.killable` is that one: it reads a run per line and answers with its exit code.
Neither side waits against a clock, and what a run says on stderr is kept for the failure. Workers
of these runs are forked too, which is quick, and safe where nothing has used a thread yet.
"""

import json
import multiprocessing
import os
import resource
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
ENDS = ("0", str(EXIT_CODE), str(-signal.SIGKILL))


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
            more: `file_bytes`, no file may grow beyond them, and then 1 is an answer too;
                `tokenizer`, a name in `tests.data.fake_crashes`; `unit_rows`, `workers`,
                `stall_timeout`, `share`; `kill`: [who, units], "driver", "worker" or "stop" (a
                worker is stopped, not killed), once so many units are published.
        """
        if self.server is None or self.server.poll() is not None:
            self.start()
        asked = {"source": str(source), "out": str(out), "fail": fail, "resume": resume} | more
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline().strip()
        if answer not in ENDS and not (answer == "1" and "file_bytes" in more):
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


def tokenize_or_die(asked: dict) -> None:
    os.environ["VQTOK_FAIL"] = asked["fail"]
    vqtok.data.processes.START_METHOD = "fork"
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
    tokenize_dataset(
        asked["source"],
        asked["out"],
        tokenizer,
        unit_rows=asked.get("unit_rows", 4),
        resume=asked["resume"],
        executor=execution,
    )


def kill_once(driver: multiprocessing.Process, out: Path, who: str, units: int) -> None:
    """Sends a signal as soon as so many units are there; a run that is over is left alone."""
    while driver.is_alive() and len(list(out.glob("data/*.parquet"))) < units:
        time.sleep(0.002)
    try:
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        if who == "driver":
            driver.kill()
            # forked, they hold the driver's lock too, until they have seen that it is gone
            while any(is_alive(child) for child in children):
                time.sleep(0.002)
        else:
            number = signal.SIGSTOP if who == "stop" else signal.SIGKILL
            for child in children[:1]:
                os.kill(int(child), number)
    except (ProcessLookupError, FileNotFoundError):
        return


def is_alive(process: str) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def serve() -> None:
    processes = multiprocessing.get_context("fork")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a run prints is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        process = processes.Process(target=tokenize_or_die, args=(asked,))
        process.start()
        if "kill" in asked:
            kill_once(process, Path(asked["out"]), *asked["kill"])
        process.join()
        print(process.exitcode, file=answers, flush=True)


if __name__ == "__main__":
    serve()
