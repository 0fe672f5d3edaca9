"""Runs that a failpoint may kill, in processes forked from one that has imported torch already."""

import multiprocessing
import os
from pathlib import Path

from tests.data.fake import FakeTokenizer
from vqtok.data import tokenize_dataset

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.data.killable"])


def tokenize_or_die(source: Path, out: Path, fail: str, resume: bool) -> None:
    os.environ["VQTOK_FAIL"] = fail
    tokenize_dataset(source, out, FakeTokenizer(), unit_rows=4, resume=resume)


def run_process(source: Path, out: Path, fail: str = "", resume: bool = False) -> int:
    """Tokenize in a process of its own, which a failpoint may kill; returns its exit code."""
    process = PROCESSES.Process(target=tokenize_or_die, args=(source, out, fail, resume))
    process.start()
    process.join()
    return process.exitcode
