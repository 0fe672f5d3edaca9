"""Workers as processes of this machine, each with its own tokenizer and threads.

The driver's process never tokenizes. A worker leaves a finished unit as a file in the run's
`.vqtok/tmp` and says so in a short message; the driver alone publishes. A worker that ends or falls
silent is replaced, and goes when its driver is gone.
"""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path

from vqtok.data.dispatch import Dispatcher
from vqtok.data.forkserver import start_forkserver, thread_variables, worker_context
from vqtok.data.jobs import Job, threads_each
from vqtok.data.worker import Task, UnitResult
from vqtok.devices import visible_cuda
from vqtok.errors import VqtokError, raised_again

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.25
POLL_SECONDS = 0.5
START_SECONDS = 600.0  # that loading libraries and a tokenizer may take
START_METHOD: str | None = None  # of multiprocessing; None: the best that this system has
NO_START = (
    "a worker process could not be started ({}). A script that asks for workers needs "
    'if __name__ == "__main__": around what it runs, and must lie in a file; or use workers=1.'
)
GONE = (EOFError, OSError)  # what reading from a process that ended gives


class Process:
    """One worker process, seen from the driver.

    Args:
        job: what it begins with.
        scratch: folder for its finished units.
        threads: of its own.
        gpu: what CUDA_VISIBLE_DEVICES says there; empty: as here.
    """

    def __init__(self, job: Job, scratch: Path, threads: int, gpu: str = ""):
        context = worker_context(START_METHOD)
        self.connection, theirs = context.Pipe()
        self.gpu = gpu
        with thread_variables(threads):
            surroundings = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
            arguments = (job, str(scratch), threads, surroundings, theirs)
            self.process = context.Process(target=work, args=arguments, daemon=True)
            try:
                self.process.start()
            except OSError as error:
                raise VqtokError(NO_START.format(error)) from error
        theirs.close()  # so that its end is seen
        self.task: Task | None = None
        self.is_ready = False
        self.heard = time.monotonic()

    def give(self, task: Task) -> None:
        self.task = task
        try:
            self.connection.send(task)
        except GONE:
            logger.debug("a worker ended before it got its unit")  # the next read says so

    def stalled(self, timeout: float) -> str:
        """Why it counts as stalled; empty if it does not."""
        if self.is_ready and self.task is None:
            return ""
        limit = timeout if self.is_ready else START_SECONDS
        silent = time.monotonic() - self.heard > limit
        return f"no sign of life for {limit:g} seconds" if silent else ""

    def end(self) -> str:
        """Ends it, if it has not ended; returns how it went."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            return f"signal {-code} (SIGKILL, which the system sends when it is out of memory)"
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


class ProcessExecutor:
    """Runs units on several processes.

    Args:
        job: what the workers need.
        workers: how many.
        scratch: folder for finished units on their way to the driver.
        stall_timeout: seconds without a sign of life after which a worker is ended.
    """

    def __init__(self, job: Job, workers: int, scratch: Path, stall_timeout: float):
        self.job, self.scratch, self.stall_timeout = job, scratch, stall_timeout
        self.workers = workers
        self.threads = threads_each(workers)
        self.gpus = visible_cuda() if job.device == "cuda" else []
        self.processes: list[Process] = []

    def run(self, dispatcher: Dispatcher, on_result: Callable[[UnitResult], None]) -> None:
        """Every unit of the dispatcher once; results come in any order.

        Raises:
            VqtokError: an error of the run, not of an input; or workers that never get ready.
        """
        if START_METHOD is None:
            start_forkserver((self.job.module,))
        try:
            while dispatcher.unfinished:
                while len(self.processes) < min(self.workers, dispatcher.unfinished):
                    process = Process(self.job, self.scratch, self.threads, self._free_gpu())
                    self.processes.append(process)
                self._give(dispatcher)
                talking = wait([p.connection for p in self.processes], timeout=POLL_SECONDS)
                for process in list(self.processes):
                    if process.connection in talking:
                        self._hear(process, dispatcher, on_result)
                    elif reason := process.stalled(self.stall_timeout):
                        self._drop(process, dispatcher, reason)
        finally:
            for process in self.processes:
                process.end()

    def _free_gpu(self) -> str:
        """The GPU with the fewest workers."""
        taken = [process.gpu for process in self.processes]
        return min(self.gpus, key=taken.count, default="")

    def _give(self, dispatcher: Dispatcher) -> None:
        for process in self.processes:
            if process.is_ready and process.task is None and (task := dispatcher.next()):
                process.heard = time.monotonic()
                process.give(task)

    def _hear(
        self, process: Process, dispatcher: Dispatcher, on_result: Callable[[UnitResult], None]
    ) -> None:
        try:
            kind, *values = process.connection.recv()
        except GONE:
            self._drop(process, dispatcher, "")
            return
        process.heard = time.monotonic()
        if kind == "ready":
            process.is_ready = True
            dispatcher.ready()
        elif kind == "at":
            dispatcher.at(*values)
        elif kind == "failed":
            raise raised_again(*values)
        else:
            unit_id, path, seconds, worker = values
            process.task = None
            new = dispatcher.finished(unit_id)
            self._give(dispatcher)  # it works while the driver writes
            data = Path(path).read_bytes()
            Path(path).unlink()
            if new:
                on_result(UnitResult(unit_id, data, seconds, worker))

    def _drop(self, process: Process, dispatcher: Dispatcher, reason: str) -> None:
        self.processes.remove(process)
        how = process.end()
        was_killed = not reason and process.process.exitcode == -signal.SIGKILL
        reason = reason or how
        if process.task is not None:
            # its neighbours may have filled the memory: no row is to blame before it is alone
            crowded = was_killed and self.workers > 1
            dispatcher.ended(process.task.unit.unit_id, reason, counts=not crowded)
            if crowded:
                self.workers -= 1
                logger.warning("going on with %d workers, in case memory is short", self.workers)
        elif not process.is_ready:
            dispatcher.false_start(reason)


def work(
    job: Job, scratch: str, threads: int, surroundings: dict[str, str], driver: Connection
) -> None:
    """The life of a worker process."""
    # what it was forked from may have begun before the driver set a variable; CUDA begins later
    os.environ.clear()
    os.environ.update(surroundings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what an interrupt means
    threading.Thread(target=go_with_the_driver, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    unit_id, said = 0, 0.0
    one_by_one = False

    def on_rows(row: int) -> None:
        nonlocal said
        now = time.monotonic()
        if one_by_one or now - said > HEARTBEAT_SECONDS:
            driver.send(("at", unit_id, row))
            said = now

    try:
        worker = job.worker(on_rows)
        driver.send(("ready",))
        while True:
            task = driver.recv()
            unit_id, one_by_one, said = task.unit.unit_id, task.one_by_one, 0.0
            result = worker.process(task)
            handle, path = tempfile.mkstemp(prefix=f"unit-{unit_id}-", dir=scratch)
            with os.fdopen(handle, "wb") as file:
                file.write(result.data)
            driver.send(("made", unit_id, path, result.seconds, result.worker))
    except VqtokError as error:
        driver.send(("failed", type(error).__name__, str(error)))
    except GONE as error:
        if isinstance(error, (EOFError, BrokenPipeError, ConnectionError)):
            return  # the driver is gone
        driver.send(("failed", "VqtokError", f"{type(error).__name__}: {error}"))


def go_with_the_driver() -> None:
    """Ends this process when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
