"""Workers as Ray Core actors, on one machine or many; the plan and the driver stay ours.

Ray places actors and tells of their death; which unit is made next, what is tried again and what is
published, the dispatcher and the driver decide as for processes of one machine. Finished units come
back as bytes. Sources must be readable from every node, and vqtok installed there.

    RAY_ADDRESS=head:6379 vqtok tokenize s3://bucket/data -t T -o codes --executor ray --workers 64
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from vqtok.data.dispatch import Dispatcher
from vqtok.data.jobs import Job
from vqtok.data.worker import Task, UnitResult
from vqtok.errors import ConfigError, VqtokError, raised_again

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
BEAT_SECONDS = 1.0
# Ray goes on placing actors on a node that is gone until it has noticed, which takes half a minute
NODE_SECONDS = 60.0


class Board:
    """Which row a unit is at, kept on the driver's node: it survives the worker that wrote it."""

    def __init__(self):
        self.rows: dict[int, int] = {}

    def write(self, unit: int, row: int) -> None:
        self.rows[unit] = row

    def read(self, unit: int) -> int:
        return self.rows.pop(unit, 0)


class Actor:
    """A worker on some node. It and the board are made Ray actors when Ray is there."""

    def __init__(self, job: Job, board: Any):
        self.place = (-1, 0)
        self.steps = 0
        self.job, self.board = job, board
        self.one_by_one = False
        self.worker = None

    def prepare(self) -> tuple | None:
        """Loads the tokenizer; returns the error, if there is one, by name and message."""
        try:
            self.worker = self.job.worker(self._begin)
        except VqtokError as error:
            return type(error).__name__, str(error)
        return None

    def process(self, task: Task) -> UnitResult | tuple:
        """A finished unit, or an error of the run by name and message."""
        self.place, self.one_by_one = (task.unit.unit_id, 0), task.one_by_one
        try:
            return self.worker.process(task)
        except VqtokError as error:
            return type(error).__name__, str(error)

    def at(self) -> tuple[int, int, int]:
        """(unit, row, steps so far) that it is at; answered beside `process`."""
        return (*self.place, self.steps)

    def _begin(self, row: int) -> None:
        self.place = (self.place[0], row)
        self.steps += 1  # a long input takes many, at one row
        if self.one_by_one:
            import ray

            ray.get(self.board.write.remote(*self.place))  # before the row, which may be the last


class Handle:
    """An actor, seen from the driver."""

    def __init__(self, actor: Any):
        self.actor = actor
        self.task: Task | None = None
        self.is_ready = False
        self.heard = self.asked = time.monotonic()
        self.place = (-1, 0, 0)


class RayExecutor:
    """Runs units on actors.

    Args:
        job: what they need.
        workers: how many; those that do not find a place wait for one. None: as many as there are
            GPUs, or processors, in the cluster.
        stall_timeout: seconds at one row after which an actor is ended.
    """

    def __init__(self, job: Job, workers: int | None, stall_timeout: float):
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "the executor 'ray' wants Ray, which is not installed: pip install vqtok[ray]."
            ) from error
        self.ray, self.job = ray, job
        self.workers, self.stall_timeout = workers, stall_timeout
        self.handles: list[Handle] = []
        self.pending: dict[Any, tuple[Handle, str]] = {}
        self.last_ready = time.monotonic()

    def run(self, dispatcher: Dispatcher, on_result: Callable[[UnitResult], None]) -> None:
        """Every unit of the dispatcher once; results come in any order.

        Raises:
            VqtokError: an error of the run, not of an input; or actors that never get ready.
        """
        ray = self.ray
        ours = not ray.is_initialized()
        if ours:
            ray.init(configure_logging=False, log_to_driver=False, include_dashboard=False)
        # no hidden retries: the dispatcher decides what is tried again
        options = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2, "num_cpus": 1}
        options["num_gpus"] = 1 if self.job.device == "cuda" else 0
        scarce = "GPU" if options["num_gpus"] else "CPU"
        workers = self.workers or max(1, int(ray.cluster_resources().get(scarce, 1)))
        kind = ray.remote(**options)(Actor)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
        job = ray.put(self.job)
        try:
            while dispatcher.unfinished:
                while len(self.handles) < min(workers, dispatcher.unfinished):
                    self._start(Handle(kind.remote(job, self.board)))
                self._give(dispatcher)
                done, _ = ray.wait(list(self.pending), timeout=POLL_SECONDS)
                for reference in done:
                    self._hear(reference, dispatcher, on_result)
                self._beat(dispatcher)
        finally:
            for actor in (self.board, *(handle.actor for handle in self.handles)):
                ray.kill(actor)
            if ours:
                ray.shutdown()

    def _start(self, handle: Handle) -> None:
        self.handles.append(handle)
        self.pending[handle.actor.prepare.remote()] = (handle, "ready")

    def _give(self, dispatcher: Dispatcher) -> None:
        for handle in self.handles:
            if handle.is_ready and handle.task is None and (task := dispatcher.next()):
                handle.task, handle.heard = task, time.monotonic()
                self.pending[handle.actor.process.remote(task)] = (handle, "made")

    def _hear(
        self, reference: Any, dispatcher: Dispatcher, on_result: Callable[[UnitResult], None]
    ) -> None:
        handle, kind = self.pending.pop(reference, (None, ""))
        if handle not in self.handles:
            return  # ended meanwhile; what it was at is given out again
        try:
            value = self.ray.get(reference)
        except (self.ray.exceptions.RayError, OSError) as error:
            self._drop(handle, dispatcher, f"{type(error).__name__}: {str(error).splitlines()[0]}")
            return
        if kind in ("ready", "made") and isinstance(value, tuple):
            raise raised_again(*value)
        if kind == "ready":
            handle.is_ready = True
            self.last_ready = time.monotonic()
            dispatcher.ready()
        elif kind == "at":
            if value != handle.place:
                handle.place, handle.heard = value, time.monotonic()
            dispatcher.at(*value[:2])
        else:
            handle.task = None
            new = dispatcher.finished(value.unit_id)
            self._give(dispatcher)  # it works while the driver writes
            if new:
                on_result(value)

    def _beat(self, dispatcher: Dispatcher) -> None:
        """Asks busy actors where they are, and ends those that stay where they were."""
        now = time.monotonic()
        for handle in list(self.handles):
            if handle.task is None:
                continue
            if now - handle.heard > self.stall_timeout:
                self.ray.kill(handle.actor)
                self._drop(handle, dispatcher, f"no step for {self.stall_timeout:g} seconds")
            elif now - handle.asked > BEAT_SECONDS:
                handle.asked = now
                self.pending[handle.actor.at.remote()] = (handle, "at")

    def _drop(self, handle: Handle, dispatcher: Dispatcher, reason: str) -> None:
        self.handles.remove(handle)
        if handle.task is not None:
            unit_id = handle.task.unit.unit_id
            if handle.task.one_by_one:
                dispatcher.at(unit_id, self.ray.get(self.board.read.remote(unit_id)))
            dispatcher.ended(unit_id, reason)
        elif not handle.is_ready and time.monotonic() - self.last_ready > NODE_SECONDS:
            dispatcher.false_start(reason)
        elif not handle.is_ready:
            logger.warning("an actor ended before it was ready: %s", reason)
            time.sleep(POLL_SECONDS)
