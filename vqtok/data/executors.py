"""Who runs the units. An executor hands every unit to a worker and every result back.

It owes the driver one call of `on_result` per unit, in any order; results may arrive twice, since
publishing keeps the first. This one works in the calling process, one unit after the other.
"""

from collections.abc import Callable, Iterable

from vqtok.data.plan import Unit
from vqtok.data.worker import UnitResult, Worker
from vqtok.errors import ConfigError


class LocalExecutor:
    """One worker, in this process."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def run(self, units: Iterable[Unit], on_result: Callable[[UnitResult], None]) -> None:
        for unit in units:
            on_result(self.worker.process(unit))


def check_executor(executor: str, workers: int) -> None:
    """Refuse what this version cannot run, rather than run it with one process unasked."""
    if executor != "local":
        raise ConfigError(
            f"executor {executor!r} is not available: this version runs 'local' only, in one "
            "process. Executors for many processes and machines come with the pipeline at scale."
        )
    if workers != 1:
        raise ConfigError(
            f"workers must be 1 in this version, which tokenizes in one process; got {workers}. "
            "More workers come with the pipeline at scale; --batch-size speeds up one process."
        )
