"""One unit of inputs to one parquet file, in memory: read, tokenize, collect, check.

The worker knows a tokenizer as an object with `tokenize`. An input that cannot be tokenized
becomes a row that says why; whatever else is wrong (codes out of range, a source that changed)
is an error of the whole run.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqtok.data.failpoints import failpoint
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


@dataclass(frozen=True)
class UnitResult:
    """A finished unit: the bytes of its parquet file."""

    unit_id: int
    data: bytes


class Worker:
    """Turns units into parquet files.

    Args:
        source: where the raw inputs come from.
        tokenizer: has `tokenize(items, batch_size=, num_codebooks=)` and `fingerprint`.
        schema: the columns to write.
        metadata: key-value metadata for every file; the unit's number is added.
        batch_size: passed to the tokenizer; None leaves it to the tokenizer.
        on_rows: called with the number of rows done since the last call.
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
        self.on_rows = on_rows or (lambda rows: None)
        self.fingerprint = tokenizer.fingerprint.decode
        self.codes_fp = self.fingerprint[:CODES_FP_CHARS]
        self._succeeded = False
        self._crashes = 0

    def process(self, unit: Unit) -> UnitResult:
        writer = UnitWriter(self.schema, self.metadata | {"vqtok.unit": str(unit.unit_id)})
        at_once = SAME_SIZE_SEARCH * self.batch_size if self.batch_size else 1
        number = 0
        for samples in _chunks(self.source.read(unit.segments), at_once):
            for sample, outcome in zip(samples, self._outcomes(samples), strict=True):
                writer.add(self._row(unit.unit_id, number, sample, outcome))
                number += 1
                if number == unit.rows // 2 + 1:
                    failpoint("mid_encode", unit.unit_id)
            self.on_rows(len(samples))
        return UnitResult(unit.unit_id, writer.close())

    def _outcomes(self, samples: list[RawSample]) -> list[Any]:
        """For every sample its tokens, or the InputError that says why there are none."""
        outcomes: list[Any] = [sample.problem for sample in samples]
        good = [index for index, outcome in enumerate(outcomes) if outcome is None]
        items = [samples[index].data for index in good]
        for index, outcome in zip(good, self._tokenize(items), strict=True):
            outcomes[index] = outcome
        return outcomes

    def _tokenize(self, items: list[bytes]) -> list[Any]:
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
            raise FormatError(
                f"the tokenizer gave tokens of fingerprint {tokens.fingerprint[:16]}, but its own "
                f"is {self.codes_fp}: its weights changed during the run."
            )
        sizes = self.schema.codebook_sizes
        codes = np.asarray(tokens.codes)
        if len(codes) != len(sizes):
            raise FormatError(f"the tokenizer gave {len(codes)} codebooks; wanted {len(sizes)}.")
        stored = [checked_cast(level, size) for level, size in zip(codes, sizes, strict=True)]
        return np.stack([level.astype(self.schema.codes_dtype) for level in stored])


def content_hash(data: bytes) -> int:
    """64 bits of BLAKE2b of the raw bytes: equal inputs can be found without reading them."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def printable(text: str) -> str:
    """An error text for a column: one line, valid UTF-8, not too long."""
    line = " ".join(text.split())
    return line.encode("utf-8", "replace").decode()[:ERROR_CHARS]


def _chunks(samples: Iterable[RawSample], size: int) -> Iterator[list[RawSample]]:
    iterator = iter(samples)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
