"""Runs that a failpoint may kill, in processes forked from one that has imported torch already.

`python -m tests.data.killable` is that one: it reads a run per line and answers with its exit code.
Neither side waits against a clock, and what a run says on stderr is kept for the failure.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

from tests.data.fake import FakeTokenizer
from vqtok.data import tokenize_dataset
from vqtok.data.failpoints import EXIT_CODE

REPOSITORY = Path(__file__).parents[2]


class KillableRuns:
    """Starts runs, each in a process of its own; their stderr goes to the file `log`."""

    def __init__(self, log: Path):
        self.log = log
        self.server: subprocess.Popen | None = None

    def __call__(self, source: Path, out: Path, fail: str = "", resume: bool = False) -> int:
        """Tokenize in a process that the failpoint `fail` may kill; returns its exit code."""
        if self.server is None or self.server.poll() is not None:
            self.start()
        self.server.stdin.write(json.dumps([str(source), str(out), fail, resume]) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline().strip()
        if answer not in ("0", str(EXIT_CODE)):
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


def tokenize_or_die(source: Path, out: Path, fail: str, resume: bool) -> None:
    os.environ["VQTOK_FAIL"] = fail
    tokenize_dataset(source, out, FakeTokenizer(), unit_rows=4, resume=resume)


def serve() -> None:
    processes = multiprocessing.get_context("fork")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a run prints is no answer
    for line in sys.stdin:
        process = processes.Process(target=tokenize_or_die, args=json.loads(line))
        process.start()
        process.join()
        print(process.exitcode, file=answers, flush=True)


if __name__ == "__main__":
    serve()
