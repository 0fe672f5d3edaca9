"""Numerics profiles of a run: `exact`, or `bf16` once measuring has shown that few codes flip.

A flip is a code that differs from the exact one; codes that flip are mostly near ties. Before a
run in bf16 begins, about a thousand of its inputs, from all over the source, are encoded both ways,
exactly as the run's workers do it, but of a long sound a few seconds. What comes out is frozen in
run.json.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vqtok.data import manifest as texts
from vqtok.data.excerpts import Excerpts
from vqtok.data.jobs import Job
from vqtok.data.parquet import read_parquet
from vqtok.data.plan import Plan, Unit
from vqtok.data.sources import Segment
from vqtok.data.worker import Task, UnitResult, Worker
from vqtok.devices import BF16, EXACT, NUMERICS
from vqtok.errors import ConfigError, InputError

logger = logging.getLogger(__name__)

MAX_FLIP_RATE = 0.02
SAMPLES = 1_000
SECONDS = 10.0  # that the blocks take together
BLOCK_SECONDS = 0.25  # that a block takes at least, if it is not full
BLOCK_ROWS = 64
SAMPLE_UNIT = -1  # no unit of the plan


def checked_options(options: dict, asked_flip_rate: float | None) -> dict:
    """The options `numerics` and `max_flip_rate` of a run, the default of the latter filled in.

    Raises:
        ConfigError: an unknown profile, or a bound that it does not have.
    """
    profile, bound = options["numerics"], options["max_flip_rate"]
    if profile not in NUMERICS:
        raise ConfigError(f"numerics must be one of {NUMERICS}; got {profile!r}.")
    if profile == EXACT:
        if asked_flip_rate is not None:
            raise ConfigError(
                f"max_flip_rate is of numerics 'bf16': with {EXACT!r} no code may flip."
            )
        bound = None
    elif bound is None:
        bound = MAX_FLIP_RATE
    elif not 0 <= bound <= 1:
        raise ConfigError(f"max_flip_rate must be from 0 to 1; got {bound}.")
    return {"numerics": profile, "max_flip_rate": bound}


def frozen_numerics(options: dict, job: Job, plan: Plan, exact: Any, tokenizer: Any) -> dict:
    """What run.json says of the profile; in bf16 after measuring it.

    Args:
        options: of the run.
        job: of the run.
        plan: of the run.
        exact: the tokenizer as it is.
        tokenizer: the same in the run's profile.

    Raises:
        ConfigError: more codes flip than `max_flip_rate` allows.
        InputError: not one input of the sample could be tokenized.
    """
    if options["numerics"] != BF16:
        return {"profile": options["numerics"]}
    found = measure(job, plan, exact, tokenizer)
    numerics = {
        "profile": BF16,
        "flip_rate": found.rates,
        "speedup": found.speedup,
        "samples": found.samples,
        "tokens": found.places * len(found.flipped),
        "max_flip_rate": options["max_flip_rate"],
    }
    logger.info("numerics: %s", texts.numerics_in_words(numerics))
    if found.speedup < 1:
        logger.warning("numerics 'bf16' is slower than 'exact' on this machine")
    check_flips(found.rates, options["max_flip_rate"])
    return numerics


def check_flips(rates: list[float], bound: float) -> None:
    """Raise ConfigError if a codebook flips more often than the bound says."""
    worst = max(range(len(rates)), key=rates.__getitem__)
    if rates[worst] <= bound:
        return
    good = next(level for level, rate in enumerate(rates) if rate > bound)
    fewer = f"store the first {good} codebooks only (num_codebooks), " if good else ""
    raise ConfigError(
        f"numerics 'bf16' flips {rates[worst]:.2%} of the codes of codebook {worst} (of "
        f"{len(rates)}, counted from 0), more than max_flip_rate={bound:g} allows; nothing was "
        f"written. Use numerics='exact', {fewer}or allow more with max_flip_rate (--max-flip-rate)."
    )


class Flips:
    """Counts codes that differ between two profiles, and the time that either takes.

    Args:
        codebooks: Q, how many the run stores.

    Attributes:
        flipped: [Q] codes of each codebook that differ.
        places: codes of each codebook that were compared.
        samples: inputs that were compared.
        seconds: of encoding alone, exactly and in the profile; reading and decoding the inputs is
            the same in both.
    """

    def __init__(self, codebooks: int):
        self.flipped = np.zeros(codebooks, np.int64)
        self.places = self.samples = 0
        self.seconds = np.zeros(2)

    def add(self, results: Sequence[UnitResult]) -> None:
        """The same unit, exactly and in the profile."""
        self.seconds += [result.seconds["tokenize"] for result in results]
        columns = [read_parquet(result.data, ["codes"])["codes"] for result in results]
        for exact, other in zip(*columns, strict=True):
            if exact.is_valid and other.is_valid:
                pair = [codes.values.to_numpy(zero_copy_only=False) for codes in (exact, other)]
                differ = (pair[0] != pair[1]).reshape(len(self.flipped), -1)
                self.flipped += differ.sum(1)
                self.places += differ.shape[1]
                self.samples += 1

    @property
    def rates(self) -> list[float]:
        return [round(count / max(self.places, 1), 6) for count in self.flipped.tolist()]

    @property
    def speedup(self) -> float:
        exact, other = self.seconds.tolist()
        return round(exact / max(other, 1e-9), 3)


def measure(job: Job, plan: Plan, exact: Any, tokenizer: Any) -> Flips:
    """Encodes a sample of the plan's inputs both ways.

    Raises:
        InputError: not one of them could be tokenized.
    """
    job = replace(job, source=Excerpts(job.source))
    workers = [job.worker(lambda row: None, which) for which in (exact, tokenizer)]
    found = Flips(len(job.schema.codebook_sizes))
    try:
        rows, seconds, results = probe(workers, plan)
        blocks = min(-(-min(SAMPLES, plan.rows) // rows), max(1, int(SECONDS / seconds)))
        if blocks == 1:
            found.add(results)
        ends = time.monotonic() + SECONDS
        for unit in sample_units(plan, rows, blocks) if blocks > 1 else ():
            found.add([worker.process(Task(unit)) for worker in workers])
            if time.monotonic() > ends:
                break
    finally:
        job.source.close()
    if not found.samples:
        raise InputError(
            "numerics 'bf16' cannot be measured: not one input of the sample could be tokenized. "
            "Use numerics='exact'."
        )
    return found


def probe(workers: Sequence[Worker], plan: Plan) -> tuple[int, float, list[UnitResult]]:
    """How many inputs make a block, the seconds that one takes both ways, and what came out: more
    and more inputs, until they take long enough."""
    rows, most = 1, min(BLOCK_ROWS, plan.rows)
    seconds, results = timed(workers, plan, rows)
    if seconds < SECONDS:  # a part of it may be slow only the first time
        seconds, results = timed(workers, plan, rows)
    while seconds < BLOCK_SECONDS and rows < most:
        rows = min(4 * rows, most)
        seconds, results = timed(workers, plan, rows)
    return rows, seconds, results


def timed(workers: Sequence[Worker], plan: Plan, rows: int) -> tuple[float, list[UnitResult]]:
    """The first rows of the plan, by every worker."""
    (unit,) = sample_units(plan, rows, 1)
    began = time.monotonic()
    results = [worker.process(Task(unit)) for worker in workers]
    return max(time.monotonic() - began, 1e-3), results


def sample_units(plan: Plan, rows: int, blocks: int) -> list[Unit]:
    """Units of `rows` inputs each, evenly over the plan and in its order.

    The first block in a file begins where the file does, because a tar or .jsonl file is read
    from the front; so of many such files only the first rows are read.
    """
    segments = [segment for unit in plan.units for segment in unit.segments]
    ends = np.cumsum([segment.row_count for segment in segments])
    units, done, last = [], 0, None
    for block in range(blocks):
        start = block * int(ends[-1]) // blocks
        index = int(np.searchsorted(ends, start, side="right"))
        segment = segments[index]
        if segment.uri != last:
            start = int(ends[index]) - segment.row_count - segment.row_start
        start = max(start, done)
        done = min(start + rows, int(ends[-1]))
        parts = tuple(cut(segments, ends, start, done))
        if parts:
            units.append(Unit(SAMPLE_UNIT, parts))
            last = parts[-1].uri
    return units


def cut(segments: list[Segment], ends: np.ndarray, start: int, stop: int) -> Iterator[Segment]:
    """Rows `start` to `stop` of all segments in a row; `ends` are running sums of their rows."""
    while start < stop:
        index = int(np.searchsorted(ends, start, side="right"))
        segment = segments[index]
        count = min(stop, int(ends[index])) - start
        offset = start - (int(ends[index]) - segment.row_count)
        yield replace(segment, row_start=segment.row_start + offset, row_count=count)
        start += count
