"""The rows of a run: one per input, failures included, and how they are laid out in parquet.

A tokenizer's `meta` is a JSON text, but an image's height and width have columns of their own.
Codes are stored flat in C order of `shape` [Q, *grid], raw (no offsets, no specials), in the
smallest unsigned type that holds K. Parquet has 32-bit integers at least; their bytes are split
into four streams, and brotli packs each into the bits that it needs: 1.00 to 1.13 times log2(K)
bits a code, in files of any length. (A dictionary would cost 32 bits for every code that occurs;
zstd packs streams of different kinds with one table.) Arrow, datasets, DuckDB and Polars read it.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vqtok.errors import ConfigError
from vqtok.ops import smallest_dtype

SCHEMA_VERSION = 1
ERROR_CHARS = 200
CODES_FP_CHARS = 16
GROUP_TOKENS = 1 << 20
GROUP_ROWS = 1 << 16
CODES = "codes.list.element"
BROTLI_LEVEL = 4  # 40 million codes a second on one core; higher levels gain nothing
# columns whose values hardly repeat; the others are dictionaries
ENCODINGS = {
    CODES: "BYTE_STREAM_SPLIT",
    "id": "DELTA_BYTE_ARRAY",
    "src": "DELTA_BYTE_ARRAY",
    "row": "DELTA_BINARY_PACKED",
    "src_row": "DELTA_BINARY_PACKED",
    "content_hash": "PLAIN",
    "meta": "PLAIN",
}

FIXED_FIELDS = (
    ("id", pa.string()),
    ("unit", pa.int32()),
    ("row", pa.int32()),
    ("src", pa.string()),
    ("src_row", pa.int64()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("codes", pa.null()),  # the list type follows from K
    ("shape", pa.list_(pa.int32())),
    ("orig_h", pa.int32()),
    ("orig_w", pa.int32()),
    ("meta", pa.string()),
    ("content_hash", pa.uint64()),
    ("codes_fp", pa.string()),
)


@dataclass(frozen=True)
class RowSchema:
    """The columns of a run.

    Attributes:
        codebook_sizes: K of each codebook that is stored.
        kept_fields: arrow fields of the columns carried along from the source.
        content_hash: fill the column of that name, at 8 bytes a row.
    """

    codebook_sizes: tuple[int, ...]
    kept_fields: tuple[pa.Field, ...] = ()
    content_hash: bool = False

    def __post_init__(self):
        ours = [name for name, _ in FIXED_FIELDS]
        taken = [kept.name for kept in self.kept_fields if kept.name in ours]
        if taken:
            raise ConfigError(
                f"columns {taken} cannot be kept under these names: the codes have their own "
                f"columns {ours}. Rename them in the source."
            )

    @property
    def codes_dtype(self) -> np.dtype:
        return np.dtype(smallest_dtype(max(self.codebook_sizes)))

    def arrow(self, metadata: dict[str, str] | None = None) -> pa.Schema:
        codes = pa.list_(pa.from_numpy_dtype(self.codes_dtype))
        fields = [pa.field(name, codes if name == "codes" else kind) for name, kind in FIXED_FIELDS]
        features = {
            kept.name: json.loads(kept.metadata[b"feature"])
            for kept in self.kept_fields
            if kept.metadata
        }
        metadata = dict(metadata or {})
        if features:
            # what `datasets` reads: class names and the like survive
            metadata["huggingface"] = json.dumps({"info": {"features": features}})
        fields += [kept.remove_metadata() for kept in self.kept_fields]
        return pa.schema(fields, metadata=metadata)


@dataclass
class Row:
    """One row before it is written; the fields are the columns."""

    id: str
    unit: int
    row: int
    src: str
    src_row: int
    codes_fp: str
    status: str = "ok"
    error: str | None = None
    codes: np.ndarray | None = None  # flat, in the stored dtype
    shape: list[int] | None = None
    orig_h: int | None = None
    orig_w: int | None = None
    meta: str | None = None
    content_hash: int | None = None
    kept: dict = field(default_factory=dict)


class UnitWriter:
    """Collects the rows of one unit and gives its parquet file as bytes."""

    def __init__(self, schema: RowSchema, metadata: dict[str, str]):
        self.schema = schema
        self.arrow = schema.arrow(metadata)
        self._out = io.BytesIO()
        lists = {"codes": CODES, "shape": "shape.list.element"}
        names = [lists.get(name, name) for name in self.arrow.names]
        store_schema = not all(is_plain(kept.type) for kept in schema.kept_fields)
        self._parquet = pq.ParquetWriter(
            self._out,
            self.arrow,
            compression={name: "brotli" if name == CODES else "zstd" for name in names},
            compression_level={CODES: BROTLI_LEVEL},
            use_dictionary=[name for name in names if name not in ENCODINGS],
            column_encoding=ENCODINGS,
            # a small unit is not worth a large footer
            write_statistics=["unit", "row", "status"],
            store_schema=store_schema,
        )
        if not store_schema:  # which would have brought it along
            self._parquet.add_key_value_metadata(self.arrow.metadata)
        self._rows: list[Row] = []
        self._tokens = 0

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._tokens += 0 if row.codes is None else row.codes.size
        if self._tokens >= GROUP_TOKENS or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def close(self) -> bytes:
        if self._rows:
            self._flush()
        self._parquet.close()
        return self._out.getvalue()

    def _flush(self) -> None:
        columns = [self._column(name) for name in self.arrow.names]
        table = pa.Table.from_arrays(columns, schema=self.arrow)
        self._parquet.write_table(table, row_group_size=GROUP_ROWS)
        self._rows, self._tokens = [], 0

    def _column(self, name: str) -> pa.Array:
        kind = self.arrow.field(name).type
        if name == "codes":
            return list_array([row.codes for row in self._rows], self.schema.codes_dtype)
        if name in {kept.name for kept in self.schema.kept_fields}:
            return pa.array([row.kept[name] for row in self._rows], kind)
        return pa.array([getattr(row, name) for row in self._rows], kind)


def is_plain(kind: pa.DataType) -> bool:
    """Whether parquet's own types give the arrow type back, without a copy of arrow's schema."""
    tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_binary, pa.types.is_boolean)
    return any(test(kind) for test in tests) or kind in (pa.float32(), pa.float64())


def list_array(items: Sequence[np.ndarray | None], dtype: np.dtype) -> pa.ListArray:
    """Flat arrays, or None, as one arrow list column, without a Python object per code."""
    sizes = [0 if item is None else item.size for item in items]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    present = [item for item in items if item is not None]
    values = np.concatenate(present) if present else np.empty(0, dtype)
    missing = pa.array([item is None for item in items])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=missing)


def count_codes(column: pa.ChunkedArray, codebook_sizes: Sequence[int]) -> list[np.ndarray]:
    """How often each code of each codebook occurs in a `codes` column.

    Returns:
        One int64 array per codebook, at least K long; longer only if a code is out of range.
    """
    counts = [np.zeros(size, np.int64) for size in codebook_sizes]
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        sizes = np.asarray(chunk.value_lengths().fill_null(0))
        per_level = np.repeat(sizes // len(counts), sizes)
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        level = (np.arange(values.size) - starts) // np.maximum(per_level, 1)
        for index in range(len(counts)):
            found = np.bincount(values[level == index], minlength=counts[index].size)
            longer = max(found.size, counts[index].size)
            counts[index] = np.pad(counts[index], (0, longer - counts[index].size))
            counts[index][: found.size] += found
    return counts
