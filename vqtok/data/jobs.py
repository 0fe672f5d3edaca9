"""What a worker needs to begin, in a form that travels to another process or machine."""

import functools
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vqtok.data.canary import canary_of, check_canary
from vqtok.data.decoding import Decoding
from vqtok.data.schema import RowSchema
from vqtok.data.sources import Source
from vqtok.data.worker import Worker
from vqtok.devices import EXACT
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
        canary: what the tokenizer must give there.
        numerics: the profile that the tokenizer runs in there.
        max_flip_rate: share of the canary's codes that may differ; None in exact numerics.
        device: kind of device that the run is on.
        decoding: how raw inputs are decoded.
        module: of the tokenizer's class; processes that start workers load it beforehand.
    """

    source: Source
    factory: Callable[[], Any]
    encode: str
    schema: RowSchema
    metadata: dict[str, str]
    batch_size: int | None = None
    canary: dict = field(default_factory=dict)
    numerics: str = EXACT
    max_flip_rate: float | None = None
    device: str = "cpu"
    decoding: Decoding = field(default_factory=Decoding)
    module: str = ""

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
            tokenizer = in_profile(self.factory(), self.numerics)
            found = tokenizer.fingerprint.encode
            if found != self.encode:
                raise FingerprintError(
                    f"the worker loaded a tokenizer of encode fingerprint {found[:16]}; the run "
                    f"has {self.encode[:16]}. Did its files change?"
                )
            check_canary(canary_of(tokenizer), self.canary, self.max_flip_rate)
        return Worker(
            self.source,
            tokenizer,
            self.schema,
            self.metadata,
            self.batch_size,
            on_rows,
            self.decoding,
        )


def in_profile(tokenizer: Any, profile: str) -> Any:
    """The tokenizer, or what computes its codes in another numerics profile.

    Raises:
        ConfigError: it cannot.
    """
    if hasattr(tokenizer, "with_numerics"):
        return tokenizer.with_numerics(profile)
    if profile == EXACT:
        return tokenizer
    raise ConfigError(
        f"numerics {profile!r} wants a tokenizer with a method `with_numerics`, as all of vqtok's "
        f"have; {type(tokenizer).__name__} has none. Use numerics={EXACT!r}, the default."
    )


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
    return max(1, cores() // workers)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
