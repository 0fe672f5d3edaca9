"""What a worker needs to begin, in a form that travels to another process or machine."""

import functools
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vqtok.data.canary import canary_codes, check_canary
from vqtok.data.schema import RowSchema
from vqtok.data.sources import Source
from vqtok.data.worker import Worker
from vqtok.errors import ConfigError, FingerprintError


@dataclass(frozen=True)
class Job:
    """All that the workers of a run share.

    Attributes:
        source: where raw inputs come from.
        factory: gives the tokenizer, in whichever process it is called.
        encode: the encode fingerprint that the tokenizer must have there.
        schema: the columns to write.
        metadata: of every file.
        batch_size: passed to the tokenizer; None leaves it to the tokenizer.
        canary: codes that the tokenizer must give there.
        device: kind of device that the run is on.
    """

    source: Source
    factory: Callable[[], Any]
    encode: str
    schema: RowSchema
    metadata: dict[str, str]
    batch_size: int | None = None
    canary: list[list[int]] = field(default_factory=list)
    device: str = "cpu"

    def worker(self, on_rows: Callable[[int], None], tokenizer: Any = None) -> Worker:
        """A worker in this process.

        Args:
            on_rows: called with the row that is about to begin.
            tokenizer: the run's own, where it is at hand; default: the factory's, and then it is
                checked first.

        Raises:
            FingerprintError: the tokenizer is another one here, or makes other codes.
        """
        if tokenizer is None:
            tokenizer = self.factory()
            found = tokenizer.fingerprint.encode
            if found != self.encode:
                raise FingerprintError(
                    f"the worker loaded a tokenizer of encode fingerprint {found[:16]}; the run "
                    f"has {self.encode[:16]}. Did its files change?"
                )
            check_canary(canary_codes(tokenizer), self.canary)
        return Worker(self.source, tokenizer, self.schema, self.metadata, self.batch_size, on_rows)


def pickled(tokenizer: Any) -> Callable[[], Any]:
    """A factory for a tokenizer that is in memory only.

    Raises:
        ConfigError: it cannot be pickled.
    """
    try:
        return functools.partial(pickle.loads, pickle.dumps(tokenizer))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the tokenizer cannot be sent to other workers ({error}): save it and pass "
            "tokenizer_factory, or use one worker."
        ) from error


def threads_each(workers: int) -> int:
    """Threads for each of so many workers on this machine's cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // workers)
