"""Who runs the units: this process, several processes, a share of a cluster's tasks, or Ray.

An executor hands every task of a dispatcher to a worker and every result back, each at least once
and in any order; publishing keeps the first.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vqtok.data.dispatch import Dispatcher
from vqtok.data.jobs import Job
from vqtok.data.worker import UnitResult
from vqtok.errors import ConfigError

EXECUTORS = ("local", "shard", "ray")
STALL_SECONDS = 600.0
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
        workers: processes (local) or actors (ray).
        stall_timeout: seconds without a sign of life after which a worker is replaced.
        task_index: of "shard": this task's number, from 0; default: the scheduler's.
        num_tasks: of "shard": how many tasks share the run; default: the scheduler's.
    """

    executor: str = "local"
    workers: int = 1
    stall_timeout: float = STALL_SECONDS
    task_index: int | None = None
    num_tasks: int | None = None

    def __post_init__(self):
        if self.executor not in EXECUTORS:
            raise ConfigError(f"executor must be one of {EXECUTORS}; got {self.executor!r}.")
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1; got {self.workers}.")
        if self.stall_timeout <= 0:
            raise ConfigError(f"stall_timeout must be above 0 seconds; got {self.stall_timeout}.")
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


def build_executor(execution: Execution, job: Job, tokenizer: Any, scratch: Path) -> Executor:
    """The executor that an execution asks for."""
    if execution.executor == "ray":
        from vqtok.data.ray_actors import RayExecutor  # ray is an extra

        return RayExecutor(job, execution.workers, execution.stall_timeout)
    if execution.workers == 1:
        return InlineExecutor(job, tokenizer)
    from vqtok.data.processes import ProcessExecutor

    return ProcessExecutor(job, execution.workers, scratch, execution.stall_timeout)
