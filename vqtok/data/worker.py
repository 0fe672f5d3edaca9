"""One unit of inputs to one parquet file, in memory: read, tokenize, collect, check.

The worker knows a tokenizer as an object with `tokenize`. An input that cannot be tokenized
becomes a row that says why; whatever else is wrong (codes out of range, a source that changed)
is an error of the whole run.
"""

import contextlib
import hashlib
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

from vqtok.data.decoding import CRASHES, Decoded, Decoder, Decoding, nbytes
from vqtok.data.failpoints import failpoint
from vqtok.data.modalities import hashed_bytes, item_of
from vqtok.data.plan import Unit
from vqtok.data.schema import CODES_FP_CHARS, ERROR_CHARS, Row, RowSchema, UnitWriter
from vqtok.data.sources import RawSample, Source
from vqtok.errors import FormatError, InputError, VqtokError
from vqtok.ops import checked_cast

logger = logging.getLogger(__name__)

# this many in a row, with not one success before: the tokenizer is broken, not the inputs
SYSTEMIC_CRASHES = 8
SAME_SIZE_SEARCH = 4  # batches' worth of inputs looked at together, so that equal sizes can meet
# inputs looked at together where the tokenizer does not say how many of them make a batch
AT_ONCE = {"image": 64, "audio": 8, "text": 64, "embedding": 1024}
CHUNK_BYTES = 256 << 20  # of decoded inputs that are looked at together
# a vector or a text needs no decoding
ENCODED = ("image", "audio")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
CHANGED = (
    "the tokenizer is not the one of fingerprint {} any more: its weights changed during the run."
)


@dataclass(frozen=True)
class UnitResult:
    """A finished unit: the bytes of its parquet file, and what making them took.

    Attributes:
        seconds: by stage, as this worker spent them: "read" (raw bytes), "decode" (waiting for
            decoded inputs), "tokenize" (encoding them), "write" (parquet).
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
        decoding: how raw inputs are decoded, if the tokenizer has `prepare` for it.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Any,
        schema: RowSchema,
        metadata: dict[str, str],
        batch_size: int | None = None,
        on_rows: Callable[[int], None] | None = None,
        decoding: Decoding | None = None,
    ):
        self.source = source
        self.tokenizer = tokenizer
        self.schema = schema
        self.metadata = metadata
        self.options = {} if batch_size is None else {"batch_size": batch_size}
        if batch_size is None and hasattr(tokenizer, "auto_batch_size"):
            self.options["batch_size"] = None
        if len(schema.codebook_sizes) < tokenizer.num_codebooks:
            self.options["num_codebooks"] = len(schema.codebook_sizes)
        is_encoded = tokenizer.modality in ENCODED
        self.at_once = AT_ONCE[tokenizer.modality]
        if batch_size is not None:
            least = 1 if is_encoded else self.at_once
            self.at_once = max(least, SAME_SIZE_SEARCH * batch_size)
        self.on_rows = on_rows or (lambda rows: None)
        self.decoder: Decoder | None = None
        if is_encoded and hasattr(tokenizer, "prepare"):
            decoding = decoding or Decoding()
            window = self.at_once * (SAME_SIZE_SEARCH if decoding.ahead else 1)
            self.decoder = Decoder(tokenizer.prepare, tokenizer.modality, decoding, window)
        self.fingerprint = tokenizer.fingerprint.decode
        self.codes_fp = self.fingerprint[:CODES_FP_CHARS]
        self._succeeded = False
        self._crashes = 0

    def process(self, task: Task) -> UnitResult:
        """One unit. The tokenizer must not change on the way, and is looked at before and after."""
        unit, clock = task.unit, Clock()
        writer = UnitWriter(self.schema, self.metadata | {"vqtok.unit": str(unit.unit_id)})
        number = 0
        held = getattr(self.tokenizer, "fingerprint_held", contextlib.nullcontext)
        with held(), self._steps(lambda: self.on_rows(number)):
            chunks = self._chunks(self._decoded(task, clock), task.one_by_one)
            self.on_rows(number)
            while chunk := clock.time("decode", next, chunks, None):
                outcomes = clock.time("tokenize", self._outcomes, chunk)
                for (sample, _), outcome in zip(chunk, outcomes, strict=True):
                    row = self._row(unit.unit_id, number, sample, outcome)
                    clock.time("write", writer.add, row)
                    number += 1
                    if number == unit.rows // 2 + 1:
                        failpoint("mid_encode", unit.unit_id)
                self.on_rows(number)
        data = clock.time("write", writer.close)
        clock.seconds["decode"] -= clock.seconds["read"]  # it waits for the reading too
        if self.tokenizer.fingerprint.decode != self.fingerprint:
            raise FormatError(CHANGED.format(self.codes_fp))
        return UnitResult(unit.unit_id, data, clock.seconds, worker_name())

    def _decoded(self, task: Task, clock: "Clock") -> Iterator[Decoded]:
        """The samples of a unit, and what the tokenizer takes for each, or why there is none."""
        samples = self._samples(task, clock)
        if self.decoder is not None:
            return self.decoder(samples, 1 if task.one_by_one else None)
        return ((sample, _item(sample, self.tokenizer.modality)) for sample in samples)

    def _samples(self, task: Task, clock: "Clock") -> Iterator[RawSample]:
        samples = iter(self.source.read(task.unit.segments))
        for number in range(task.unit.rows):
            if (sample := clock.time("read", next, samples, None)) is None:
                return  # the driver counts the rows
            if number in task.poison:
                sample.error = InputError(task.poison[number], "crash")
            yield sample

    def _chunks(self, decoded: Iterable[Decoded], one_by_one: bool) -> Iterator[list[Decoded]]:
        """Some batches' worth of samples at a time."""
        chunk: list[Decoded] = []
        share = 0.0
        for sample, item in decoded:
            chunk.append((sample, item))
            share += 1.0 if one_by_one else max(self._share(item), nbytes(item) / CHUNK_BYTES)
            if share > 1 - 1e-6:
                yield chunk
                chunk, share = [], 0.0
        if chunk:
            yield chunk

    def _share(self, item: Any) -> float:
        """Of the room in a chunk."""
        tensor = getattr(item, "tensor", None)
        if tensor is None or self.options.get("batch_size", 0) is not None:
            return 1 / self.at_once
        return 1 / (SAME_SIZE_SEARCH * self.tokenizer.auto_batch_size(tensor.shape))

    @contextlib.contextmanager
    def _steps(self, on_step: Callable[[], None]) -> Iterator[None]:
        """Has a tokenizer that can do so say that it is alive, within one long input."""
        if not hasattr(self.tokenizer, "on_step"):
            yield
            return
        before, self.tokenizer.on_step = self.tokenizer.on_step, on_step
        try:
            yield
        finally:
            self.tokenizer.on_step = before

    def _outcomes(self, chunk: list[Decoded]) -> list[Any]:
        """For every sample its tokens, or the InputError that says why there are none."""
        outcomes = [item for _, item in chunk]
        for index, item in enumerate(outcomes):
            if isinstance(item, CRASHES) and not isinstance(item, VqtokError):
                outcomes[index] = self._crash(item)
            elif isinstance(item, VqtokError) and not isinstance(item, InputError):
                raise item
        good = [i for i, item in enumerate(outcomes) if not isinstance(item, InputError)]
        found = self._tokenize([outcomes[index] for index in good])
        for index, outcome in zip(good, found, strict=True):
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
            content_hash=self._hash(sample),
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

    def _hash(self, sample: RawSample) -> int | None:
        wanted = self.schema.content_hash and sample.data is not None
        return content_hash(sample.data) if wanted else None

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


def _item(sample: RawSample, modality: str) -> Any:
    try:
        return item_of(sample, modality)
    except InputError as error:
        return error
