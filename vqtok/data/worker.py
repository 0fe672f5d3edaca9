"""One unit of inputs to one parquet file, in memory: read, tokenize, collect, check.

The worker knows a tokenizer as an object with `tokenize`. An input that cannot be tokenized
becomes a row that says why; whatever else is wrong (codes out of range, a source that changed)
is an error of the whole run.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vqtok.data.failpoints import failpoint
from vqtok.data.modalities import hashed_bytes, item_of
from vqtok.data.plan import Unit
from vqtok.data.schema import CODES_FP_CHARS, ERROR_CHARS, Row, RowSchema, UnitWriter
from vqtok.data.sources import RawSample, Source
from vqtok.errors import FormatError, InputError, VqtokError
from vqtok.ops import checked_cast

logger = logging.getLogger(__name__)

# what a library may raise on an input that nobody foresaw; the input's row then says "crash"
CRASHES = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError, OSError)
# this many in a row, with not one success before: the tokenizer is broken, not the inputs
SYSTEMIC_CRASHES = 8
SAME_SIZE_SEARCH = 4  # batches looked at together, so that images of one size can meet
# small inputs handed over in one call, which costs more than one of them; still encoded one by one
AT_ONCE = {"text": 64, "embedding": 256}
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
CHANGED = (
    "the tokenizer is not the one of fingerprint {} any more: its weights changed during the run."
)


@dataclass(frozen=True)
class UnitResult:
    """A finished unit: the bytes of its parquet file, and what making them took.

    Attributes:
        seconds: by stage: "read" (raw bytes), "tokenize" (decode and encode), "write" (parquet).
        worker: who made it.
    """

    unit_id: int
    data: bytes
    seconds: dict[str, float] = field(default_factory=dict)
    worker: str = ""


@dataclass(frozen=True)
class Task:
    """A unit to make, and what is known about it from failed attempts.

    Attributes:
        poison: rows that ended a worker before, with the words for their error column.
        one_by_one: hand over one input at a time, and say which before each: a worker ended twice.
    """

    unit: Unit
    poison: dict[int, str] = field(default_factory=dict)
    one_by_one: bool = False


class Worker:
    """Turns units into parquet files.

    Args:
        source: where the raw inputs come from.
        tokenizer: has `tokenize(items, batch_size=, num_codebooks=)` and `fingerprint`.
        schema: the columns to write.
        metadata: key-value metadata for every file; the unit's number is added.
        batch_size: passed to the tokenizer; None leaves it to the tokenizer.
        on_rows: called with the number of rows of the unit that are done, before every step.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Any,
        schema: RowSchema,
        metadata: dict[str, str],
        batch_size: int | None = None,
        on_rows: Callable[[int], None] | None = None,
    ):
        self.source = source
        self.tokenizer = tokenizer
        self.schema = schema
        self.metadata = metadata
        self.batch_size = batch_size
        self.options = {} if batch_size is None else {"batch_size": batch_size}
        if len(schema.codebook_sizes) < tokenizer.num_codebooks:
            self.options["num_codebooks"] = len(schema.codebook_sizes)
        self.at_once = AT_ONCE.get(tokenizer.modality, 1)
        self.on_rows = on_rows or (lambda rows: None)
        self.fingerprint = tokenizer.fingerprint.decode
        self.codes_fp = self.fingerprint[:CODES_FP_CHARS]
        self._succeeded = False
        self._crashes = 0

    def process(self, task: Task) -> UnitResult:
        """One unit. The tokenizer must not change on the way, and is looked at before and after."""
        unit, clock = task.unit, Clock()
        writer = UnitWriter(self.schema, self.metadata | {"vqtok.unit": str(unit.unit_id)})
        at_once = SAME_SIZE_SEARCH * self.batch_size if self.batch_size else self.at_once
        number = 0
        held = getattr(self.tokenizer, "fingerprint_held", contextlib.nullcontext)
        with held():
            chunks = _chunks(self.source.read(unit.segments), 1 if task.one_by_one else at_once)
            while samples := clock.time("read", next, chunks, None):
                self.on_rows(number)
                poison = {i - number: text for i, text in task.poison.items()}
                outcomes = clock.time("tokenize", self._outcomes, samples, poison)
                for sample, outcome in zip(samples, outcomes, strict=True):
                    row = self._row(unit.unit_id, number, sample, outcome)
                    clock.time("write", writer.add, row)
                    number += 1
                    if number == unit.rows // 2 + 1:
                        failpoint("mid_encode", unit.unit_id)
        self.on_rows(number)
        data = clock.time("write", writer.close)
        if self.tokenizer.fingerprint.decode != self.fingerprint:
            raise FormatError(CHANGED.format(self.codes_fp))
        return UnitResult(unit.unit_id, data, clock.seconds, worker_name())

    def _outcomes(self, samples: list[RawSample], poison: dict[int, str]) -> list[Any]:
        """For every sample its tokens, or the InputError that says why there are none."""
        outcomes: list[Any] = [None] * len(samples)
        items: dict[int, Any] = {}
        for index, sample in enumerate(samples):
            try:
                if index in poison:
                    raise InputError(poison[index], "crash")
                items[index] = item_of(sample, self.tokenizer.modality)
            except InputError as error:
                outcomes[index] = error
        for index, outcome in zip(items, self._tokenize(list(items.values())), strict=True):
            outcomes[index] = outcome
        return outcomes

    def _tokenize(self, items: list[Any]) -> list[Any]:
        """Tokens or errors. A batch with a bad input is halved until the input is found.

        An item's codes do not depend on its company (the tokenizer's promise), so halving
        changes nothing for the others.
        """
        if not items:
            return []
        try:
            tokens = self.tokenizer.tokenize(items, **self.options)
        except InputError as error:
            failure: Exception = error
        except VqtokError:
            raise
        except CRASHES as error:
            failure = error
        else:
            self._succeeded, self._crashes = True, 0
            return list(tokens)
        if len(items) > 1:
            if not isinstance(failure, InputError):
                logger.warning("a batch of %d failed and is halved: %s", len(items), failure)
            middle = len(items) // 2
            return self._tokenize(items[:middle]) + self._tokenize(items[middle:])
        if isinstance(failure, InputError):
            return [failure]
        return [self._crash(failure)]

    def _crash(self, failure: Exception) -> InputError:
        self._crashes += 1
        if not self._succeeded and self._crashes >= SYSTEMIC_CRASHES:
            raise VqtokError(
                f"the tokenizer failed on each of the first {self._crashes} inputs, so the inputs "
                f"are not to blame: {type(failure).__name__}: {failure}"
            ) from failure
        first = failure if self._crashes == 1 else None  # one traceback says enough
        logger.warning("the tokenizer crashed on an input: %s", failure, exc_info=first)
        return InputError(f"{type(failure).__name__}: {failure}", "crash")

    def _row(self, unit: int, number: int, sample: RawSample, outcome: Any) -> Row:
        row = Row(
            id=sample.key if sample.key is not None else f"{unit}:{number}",
            unit=unit,
            row=number,
            src=sample.src,
            src_row=sample.src_row,
            codes_fp=self.codes_fp,
            content_hash=None if sample.data is None else content_hash(sample.data),
            kept=sample.kept,
        )
        if isinstance(outcome, InputError):
            row.status = outcome.status
            row.error = printable(str(outcome))
            return row
        codes = self._codes(outcome)
        meta = dict(outcome.meta)
        row.shape = list(codes.shape)
        row.codes = codes.ravel()
        row.orig_h, row.orig_w = meta.pop("height", None), meta.pop("width", None)
        row.meta = json.dumps(meta, sort_keys=True) if meta else None
        return row

    def _codes(self, tokens: Any) -> np.ndarray:
        """[q, *grid] in the stored dtype, every code checked against its codebook."""
        if tokens.fingerprint != self.fingerprint:
            raise FormatError(CHANGED.format(self.codes_fp))
        sizes = self.schema.codebook_sizes
        codes = np.asarray(tokens.codes)
        if len(codes) != len(sizes):
            raise FormatError(f"the tokenizer gave {len(codes)} codebooks; wanted {len(sizes)}.")
        stored = [checked_cast(level, size) for level, size in zip(codes, sizes, strict=True)]
        return np.stack([level.astype(self.schema.codes_dtype) for level in stored])


class Clock:
    """Seconds by stage."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def time(self, stage: str, work: Callable, *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            taken = time.perf_counter() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + taken


def worker_name() -> str:
    """Machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def content_hash(data: bytes | str | np.ndarray) -> int:
    """64 bits of BLAKE2b of the raw input: equal inputs can be found without reading them."""
    digest = hashlib.blake2b(hashed_bytes(data), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def printable(text: str) -> str:
    """An error text for a column: one line, valid UTF-8, not too long, the same in every run."""
    line = " ".join(ADDRESS.sub("", text).split())
    return line.encode("utf-8", "replace").decode()[:ERROR_CHARS]


def _chunks(samples: Iterable[RawSample], size: int) -> Iterator[list[RawSample]]:
    iterator = iter(samples)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
