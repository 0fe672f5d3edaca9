"""Reading parquet whole, on the calling thread.

Arrow's own threads may outlive a short program and abort it at its end, after all went well
(apache/arrow #34314: "terminate called without an active exception"); a unit is small anyway.
"""

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(
    source: bytes | str | os.PathLike, columns: Sequence[str] | None = None
) -> pa.Table:
    """A parquet file, by its bytes or its path."""
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(opened) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
