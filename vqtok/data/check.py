"""A unit's parquet file, re-opened and counted: before it is published, when it is adopted, and in
`vqtok verify`.

The file is read row group by row group, so a unit of any size takes little memory.
"""

import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vqtok.data import manifest as texts
from vqtok.data.plan import Unit
from vqtok.data.schema import CODES_FP_CHARS, FIXED_FIELDS, RowSchema, count_codes
from vqtok.errors import FormatError

# what arrow raises on bytes that are not parquet, or not any more
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
NEVER_NULL = ("id", "unit", "row", "src", "src_row", "status", "codes_fp")
HASH_BYTES = 1 << 20


class UnitCheck:
    """Counts one unit's file and looks for what cannot be.

    Args:
        run: run.json, or the manifest.
        unit: what the plan has.
        name: of the file, for the messages.

    Attributes:
        problems: one line each.
        counts: how often each code of each codebook occurs.
    """

    def __init__(self, run: dict, unit: Unit, name: str):
        self.run, self.unit, self.name = run, unit, name
        self.sizes = texts.stored_sizes(run)
        self.problems: list[str] = []
        self.counts = [np.zeros(size, np.int64) for size in self.sizes]
        self.rows = self.tokens = self.ids = self.bytes = 0
        self.status: Counter[str] = Counter()
        self.sha256 = ""
        self._planned = (
            (p.uri, p.row_start + i) for p in unit.segments for i in range(p.row_count)
        )

    def problem(self, text: str) -> None:
        self.problems.append(f"{self.name} {text}")

    def groups(self, source: bytes | os.PathLike) -> Iterator[pa.Table]:
        """The file's row groups, each checked and counted.

        Raises:
            FormatError: not parquet, not this unit of this run, other columns, or codes that no
                codebook has; nothing more can be said of such a file.
        """
        self.sha256, self.bytes = file_digest(source)
        try:
            with pq.ParquetFile(
                io.BytesIO(source) if isinstance(source, bytes) else source
            ) as file:
                self._check_schema(file.schema_arrow)
                if file.metadata.num_rows != self.unit.rows:
                    rows = file.metadata.num_rows
                    raise FormatError(
                        f"{self.name} holds {rows} rows; the plan has {self.unit.rows}."
                    )
                names = [name for name, _ in FIXED_FIELDS]  # what is kept may be large
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, names, use_threads=False)
                    self._check(table)
                    yield table
        except UNREADABLE as error:
            raise FormatError(
                f"{self.name} cannot be read as parquet: {error}. Move it away."
            ) from error

    def commit(self) -> dict:
        """What a commit says of the file, after all groups were read."""
        return {
            "unit": self.unit.unit_id,
            "file": self.name,
            "rows": self.rows,
            "ok": self.status["ok"],
            "bad": self.rows - self.status["ok"],
            "status": dict(sorted(self.status.items())),
            "tokens": self.tokens,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "ids_digest": texts.id_hex(self.ids),
        }

    def _check_schema(self, schema: pa.Schema) -> None:
        raw = schema.metadata or {}
        metadata = {
            k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in raw.items()
        }
        wanted = texts.file_metadata(self.run) | {"vqtok.unit": str(self.unit.unit_id)}
        for key, value in wanted.items():
            if metadata.get(key) != value:
                raise FormatError(
                    f"{self.name} does not belong to this run: {key} should be {value!r} and is "
                    f"{metadata.get(key)!r}. Move it away."
                )
        columns = RowSchema(self.sizes).arrow()
        kept = set(self.run["options"].get("keep") or ())
        found = {field.name: field.type for field in schema}
        for field in columns:
            if found.get(field.name) != field.type:
                raise FormatError(
                    f"{self.name} should have a column {field.name} of {field.type}; it has "
                    f"{found.get(field.name)}."
                )
        if strange := set(found) - {name for name, _ in FIXED_FIELDS} ^ kept:
            raise FormatError(f"{self.name} should keep columns {kept}; {strange} differ.")

    def _check(self, table: pa.Table) -> None:
        first, self.rows = self.rows, self.rows + table.num_rows
        for name in NEVER_NULL:
            if table[name].null_count:
                raise FormatError(f"{self.name} has rows without {name}.")
        self._check_order(table, first)
        self._check_codes(table)
        self._check_shapes(table, first)
        good = pc.equal(table["status"], "ok")
        if not pc.all(pc.equal(good, pc.is_valid(table["codes"]))).as_py():
            self.problem("should have codes exactly where the status is ok")
        if not pc.all(pc.equal(good, pc.is_null(table["error"]))).as_py():
            self.problem("should have an error exactly where the status is not ok")
        self._check_meta(table, first)
        prints = set(table["codes_fp"].unique().to_pylist())
        own = self.run["tokenizer"]["fingerprint"]["decode"][:CODES_FP_CHARS]
        if prints != {own}:
            raise FormatError(f"{self.name} holds rows of other tokenizers: {sorted(prints)}.")
        self.status.update(table["status"].to_pylist())
        self.ids += texts.ids_sum(table["id"].to_pylist())

    def _check_order(self, table: pa.Table, first: int) -> None:
        """Each planned input once, in the order of the plan."""
        planned = islice(self._planned, table.num_rows)
        found = zip(table["src"].to_pylist(), table["src_row"].to_pylist(), strict=True)
        for number, (wanted, came) in enumerate(zip(planned, found, strict=True), first):
            if wanted != came:
                self.problem(f"has in row {number} {came}; the plan has {wanted} there")
                break
        if not np.array_equal(table["row"].to_numpy(), np.arange(first, self.rows)):
            self.problem("has rows that are not numbered from 0")
        if pc.any(pc.not_equal(table["unit"], self.unit.unit_id)).as_py():
            self.problem("has a row that says that it is of another unit")

    def _check_codes(self, table: pa.Table) -> None:
        flat = pc.list_flatten(table["codes"])
        if flat.null_count:
            raise FormatError(f"{self.name} has rows with missing codes among the others.")
        self.tokens += len(flat)
        # before counting: a histogram up to a wild code might not fit into memory
        most = pc.max(flat).as_py() or 0
        counts = count_codes(table["codes"], self.sizes) if most < max(self.sizes) else []
        worst = next((i for i, c in enumerate(counts) if c.size > self.sizes[i]), None)
        if most >= max(self.sizes) or worst is not None:
            level = np.argmax(self.sizes) if worst is None else worst
            code = most if worst is None else counts[worst].size - 1
            raise FormatError(
                f"{self.name} holds code {code} in codebook {level}, which has "
                f"{self.sizes[level]} codes."
            )
        for total, count in zip(self.counts, counts, strict=True):
            total += count

    def _check_shapes(self, table: pa.Table, first: int) -> None:
        shapes = table["shape"].to_pylist()
        lengths = pc.list_value_length(table["codes"]).to_pylist()
        for number, (shape, length) in enumerate(zip(shapes, lengths, strict=True), first):
            if shape is None and length is None:
                continue
            fits = shape is not None and None not in shape and min(shape, default=-1) >= 0
            fits = fits and len(shape) > 1 and shape[0] == len(self.sizes)
            if not fits or math.prod(shape) != length:
                self.problem(f"has in row {number} {length} codes and the shape {shape}")
                break

    def _check_meta(self, table: pa.Table, first: int) -> None:
        for number, text in enumerate(table["meta"].to_pylist(), first):
            try:
                fits = text is None or isinstance(json.loads(text), dict)
            except ValueError:
                fits = False
            if not fits:
                self.problem(f"has in row {number} meta that is no JSON object: {text[:40]!r}")
                break


def check_unit(source: bytes | os.PathLike, name: str, unit: Unit, run: dict) -> UnitCheck:
    """Read a whole unit; its `commit()` and `counts` are what it holds.

    Raises:
        FormatError: with the first thing that is wrong.
    """
    check = UnitCheck(run, unit, name)
    for _ in check.groups(source):
        pass
    if check.problems:
        raise FormatError(f"{check.problems[0]}. Move it away.")
    return check


def file_digest(source: bytes | os.PathLike) -> tuple[str, int]:
    """SHA-256 and length of bytes, or of a file that need not fit into memory."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest(), len(source)
    sha, length = hashlib.sha256(), 0
    with open(Path(source), "rb") as file:
        while part := file.read(HASH_BYTES):
            sha.update(part)
            length += len(part)
    return sha.hexdigest(), length
