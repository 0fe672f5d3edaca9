"""Reading a run's rows in a test, by plain pyarrow, independent of the package's own reader."""

from pathlib import Path

import pyarrow.parquet as pq


def rows_of(out: Path) -> list[dict]:
    files = sorted((Path(out) / "data").glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def codes_of(out: Path) -> list[tuple]:
    """What must not depend on crashes: everything but the unit layout."""
    keys = ("id", "src", "src_row", "status", "codes", "shape", "orig_h", "orig_w", "content_hash")
    return [tuple(map(str, (row[key] for key in keys))) for row in rows_of(out)]
