"""Who runs the units: this process, several processes, a share of a cluster's tasks, or Ray.

An executor hands every task of a dispatcher to a worker and every result back, each at least once
and in any order; publishing keeps the first.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vqtok.data.decoding import ITEM_SECONDS, Decoding
from vqtok.data.dispatch import Dispatcher
from vqtok.data.jobs import Job, cores
from vqtok.data.worker import UnitResult
from vqtok.devices import visible_cuda
from vqtok.errors import ConfigError

EXECUTORS = ("local", "shard", "ray")
STALL_SECONDS = 600.0
WORKER_BYTES = 3 << 29  # that a process with a tokenizer may need: 1.5 GiB
AHEAD_THREADS = 8  # that decode beside an accelerator
# (number of this task, number of tasks) as schedulers tell it
TASK_VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("RANK", "WORLD_SIZE"),
    ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
)
FIRST_VARIABLES = {"SLURM_ARRAY_TASK_ID": "SLURM_ARRAY_TASK_MIN"}


class Executor(Protocol):
    """Runs the tasks of a dispatcher."""

    def run(self, dispatcher: Dispatcher, on_result: Callable[[UnitResult], None]) -> None: ...


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; nothing here changes a row.

    Attributes:
        executor: "local", "shard" or "ray".
        workers: processes (local, shard) or actors (ray). 1: in this process, which an input that
            crashes it then ends. None: as many as pay, at least one of its own: a process a GPU, or
            a core as far as there are units and memory; with ray the whole cluster.
        stall_timeout: seconds without a sign of life after which a worker is replaced.
        task_index: of "shard": this task's number, from 0; default: the scheduler's.
        num_tasks: of "shard": how many tasks share the run; default: the scheduler's.
        item_timeout: seconds that decoding one image or sound may take before its row says so.
        decode_threads: of each worker; default: by where the encoder runs.
    """

    executor: str = "local"
    workers: int | None = 1
    stall_timeout: float = STALL_SECONDS
    task_index: int | None = None
    num_tasks: int | None = None
    item_timeout: float = ITEM_SECONDS
    decode_threads: int | None = None

    def __post_init__(self):
        if self.executor not in EXECUTORS:
            raise ConfigError(f"executor must be one of {EXECUTORS}; got {self.executor!r}.")
        for name in ("workers", "decode_threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        for name in ("stall_timeout", "item_timeout"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0 seconds; got {getattr(self, name)}.")
        if self.executor != "shard" and (self.task_index, self.num_tasks) != (None, None):
            raise ConfigError("task_index and num_tasks are of the executor 'shard'.")
        if self.executor == "shard":
            self.share()  # refuse now what cannot work

    def share(self) -> tuple[int, int]:
        """(this task, number of tasks): every so many-th unit is this process's own."""
        if self.executor != "shard":
            return 0, 1
        index, total = self.task_index, self.num_tasks
        if (index, total) == (None, None):
            index, total = scheduled_task(os.environ)
        if index is None or total is None or not 0 <= index < total:
            raise ConfigError(
                f"the executor 'shard' wants a task index from 0 and below the number of tasks; "
                f"got {index} of {total}."
            )
        return index, total

    @property
    def is_here(self) -> bool:
        """Whether one worker in this process does it all."""
        return self.executor != "ray" and self.workers == 1

    def workers_for(self, units: int, device: str) -> int:
        """How many processes of this machine make so many units."""
        if self.workers is not None:
            return self.workers
        if device != "cpu":  # a second model on one accelerator only waits for the first
            return max(1, min(len(visible_cuda()) if device == "cuda" else 1, units))
        most = min(cores(), units, free_bytes() // WORKER_BYTES)
        return max(1, most)

    def decoding(self, device: str) -> Decoding:
        """How each worker decodes: beside the encoder, unless both want the same cores."""
        ahead = device != "cpu"
        threads = AHEAD_THREADS if ahead else 1
        return Decoding(self.decode_threads or threads, ahead, self.item_timeout)


def free_bytes() -> int:
    """Memory that this machine could give out now."""
    import psutil

    return psutil.virtual_memory().available


def scheduled_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """Task and number of tasks from Slurm's array, torchrun's ranks or SkyPilot's nodes."""
    for index, total in TASK_VARIABLES:
        if index in environment and total in environment:
            first = int(environment.get(FIRST_VARIABLES.get(index, ""), 0))
            return int(environment[index]) - first, int(environment[total])
    raise ConfigError(
        "the executor 'shard' does not know its task: pass --task-index and --num-tasks, or start "
        "it as a Slurm array job, under torchrun or on SkyPilot."
    )


class InlineExecutor:
    """One worker, in this process.

    Args:
        job: what it needs.
        tokenizer: the one at hand.
    """

    def __init__(self, job: Job, tokenizer: Any):
        self.job, self.tokenizer = job, tokenizer

    def run(self, dispatcher: Dispatcher, on_result: Callable[[UnitResult], None]) -> None:
        unit_id = 0
        worker = self.job.worker(lambda row: dispatcher.at(unit_id, row), self.tokenizer)
        try:
            while task := dispatcher.next():
                unit_id = task.unit.unit_id
                result = worker.process(task)
                dispatcher.finished(unit_id)
                on_result(result)
        finally:
            self.job.source.close()


def build_executor(
    execution: Execution, job: Job, tokenizer: Any, scratch: Path, units: int
) -> Executor:
    """The executor that an execution asks for, to make so many units."""
    if execution.executor == "ray":
        from vqtok.data.ray_actors import RayExecutor  # ray is an extra

        return RayExecutor(job, execution.workers, execution.stall_timeout)
    if execution.is_here:
        return InlineExecutor(job, tokenizer)
    from vqtok.data.processes import ProcessExecutor

    workers = execution.workers_for(units, job.device)
    return ProcessExecutor(job, workers, scratch, execution.stall_timeout)
