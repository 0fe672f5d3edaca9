"""A process that has the libraries loaded, and from which workers start in a moment.

Loading torch and transformers takes seconds and hundreds of megabytes; a worker that is forked
from a process which has them, and has used no thread yet, shares both. It may be started long
before the first worker is wanted.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext

# read when the libraries load; torch's own number of threads is set in the worker
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PRELOAD = ("vqtok.data.processes", "pyarrow.parquet")  # what every worker needs
METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def start_forkserver(modules: Sequence[str]) -> None:
    """Start it now, unless it runs already; it loads these modules while the caller goes on.

    Args:
        modules: what the tokenizer needs besides; what cannot be loaded is left to the worker.
    """
    if METHOD != "forkserver":
        return
    from multiprocessing import forkserver

    context = multiprocessing.get_context(METHOD)
    named = (name for name in modules if name not in ("", "__main__"))
    context.set_forkserver_preload([*PRELOAD, *named])
    with thread_variables(1), interrupts_ignored():
        forkserver.ensure_running()


def worker_context(method: str | None = None) -> BaseContext:
    """What starts workers: from the fork server where there is one."""
    return multiprocessing.get_context(method or METHOD)


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Has processes that start meanwhile leave Ctrl-C to this one, from their first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def thread_variables(threads: int) -> Iterator[None]:
    """Has processes that start meanwhile begin with so many threads."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update({name: str(threads) for name in THREAD_VARIABLES})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
