"""Reading a run back: its manifest, its rows, and the `datasets` view that `load_codes` gives."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from vqtok.data.manifest import MANIFEST, RUN, stored_sizes
from vqtok.data.plan import SPLIT
from vqtok.data.publish import LocalStore
from vqtok.data.schema import CODES_FP_CHARS, SCHEMA_VERSION
from vqtok.errors import FingerprintError, FormatError

if TYPE_CHECKING:
    from datasets import Dataset

READ_ROWS = 256
DATA_FILE = re.compile(rf"data/{SPLIT}-\d+-of-\d+\.parquet")
# what readers rely on, in run.json and beyond that in vqtok.json
FORM = {
    "tokenizer": {
        "name": str,
        "class": str,
        "modality": str,
        "rate": dict,
        "codebook_sizes": [int],
        "fingerprint": {"encode": str, "decode": str, "codebook": str},
    },
    "options": {"num_codebooks": int},
    "plan_hash": str,
    "rows": int,
    "software": dict,
}
COUNTS = dict.fromkeys(("rows", "ok", "bad", "tokens", "bytes"), int)
UNIT_FORM = {"unit": int, "file": str, "sha256": str} | COUNTS
FINISHED_FORM = {
    "units": [UNIT_FORM],
    "totals": COUNTS | {"status": dict},
    "code_usage": [dict],
    "streams": [dict],
}


@dataclass(frozen=True)
class StoredRun:
    """A run on disk.

    Attributes:
        root: its folder.
        content: vqtok.json, or run.json of an unfinished run.
        files: its parquet files, in the order of their rows.
        finished: whether vqtok.json is there.
    """

    root: Path
    content: dict
    files: tuple[Path, ...]
    finished: bool

    @property
    def tokenizer(self) -> dict:
        """Name, class, codebook sizes and fingerprints of the tokenizer that made the codes."""
        return self.content["tokenizer"]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return stored_sizes(self.content)

    def rows(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows in order, `codes` as a numpy array [Q, *grid] int64 or None."""
        for path in self.files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(
                    batch_size=READ_ROWS, columns=columns, use_threads=False
                ):
                    yield from batch_rows(batch)


def open_run(folder: str | os.PathLike, allow_incomplete: bool = False) -> StoredRun:
    """Look at a run's folder; nothing is loaded yet.

    Raises:
        FormatError: no run, an unfinished one (unless allowed), or a run with files missing.
    """
    store = LocalStore(Path(folder))
    if store.exists(MANIFEST):
        content = read_content(store, MANIFEST)
        files = tuple(store.path(unit["file"]) for unit in content["units"])
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            raise FormatError(
                f"{folder} has lost {len(missing)} of its {len(files)} files: {missing[:3]}. "
                "Copy it again, or remove vqtok.json and run tokenize with --resume."
            )
        return StoredRun(store.root, content, files, finished=True)
    if not store.exists(RUN):
        raise FormatError(
            f"{folder} is not a folder of codes: it has no {MANIFEST}. Make one with "
            "`vqtok tokenize SOURCE --tokenizer T --out DIR`."
        )
    if not allow_incomplete:
        raise FormatError(
            f"{folder} is an unfinished run: it has no {MANIFEST}. Finish it with "
            "`vqtok tokenize ... --resume`, or pass allow_incomplete=True to read what is there."
        )
    content = read_content(store, RUN)
    files = tuple(sorted(store.path("data").glob(f"{SPLIT}-*.parquet")))
    return StoredRun(store.root, content, files, finished=False)


def read_content(store: LocalStore, name: str) -> dict:
    """vqtok.json or run.json, with everything in it that readers rely on.

    Raises:
        FormatError: it is missing, of another schema, or not what vqtok writes.
    """
    content, path = store.read_json(name), store.path(name)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA_VERSION:
        raise FormatError(
            f"{path} has schema {schema!r}; this vqtok reads {SCHEMA_VERSION}. "
            "Install the vqtok that wrote it, or tokenize again."
        )
    wrong = misfit(content, FORM | (FINISHED_FORM if name == MANIFEST else {"units": int}))
    if wrong:
        raise FormatError(f"{path} is damaged: {wrong}. Copy the run again.")
    for unit in content["units"] if name == MANIFEST else ():
        if not DATA_FILE.fullmatch(unit["file"]):
            raise FormatError(f"{path} is damaged: {unit['file']!r} is no file of a run.")
    return content


def misfit(value: Any, form: Any, place: str = "") -> str:
    """The first place where a JSON value is not of a form; empty if it is.

    A form is a type, a dict of forms (other keys may come), or a list with the form of every item.
    """
    kind = form if isinstance(form, type) else type(form)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"{place or 'it'} should be of type {kind.__name__}"
    if isinstance(form, list):
        inner = [(f"{place}[{index}]", item, form[0]) for index, item in enumerate(value)]
    elif isinstance(form, dict):
        if missing := [key for key in form if key not in value]:
            return f"{missing[0]} is missing in {place or 'it'}"
        inner = [(f"{place}.{key}".lstrip("."), value[key], form[key]) for key in form]
    else:
        return ""
    return next((wrong for where, v, f in inner if (wrong := misfit(v, f, where))), "")


def load_codes(folder: str | os.PathLike, allow_incomplete: bool = False) -> "Dataset":
    """The rows of a run as a `datasets.Dataset`, in the order of the source.

    Args:
        folder: what `vqtok tokenize` wrote.
        allow_incomplete: also read a run that is not finished: the units published so far.

    Returns:
        A memory-mapped dataset; `codes` are flat, in C order of `shape` [Q, *grid], and None
        where `status` is not "ok".

    Raises:
        FormatError: no run, an unfinished one, or files that are missing or not parquet.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    run = open_run(folder, allow_incomplete)
    if not run.files:
        raise FormatError(f"{folder} is an unfinished run without a single published unit.")
    try:
        return Dataset.from_parquet([str(path) for path in run.files])
    except DatasetGenerationError as error:
        raise FormatError(f"{folder} cannot be read: {error.__cause__ or error}") from error


def check_decodes(run: StoredRun, tokenizer: Any) -> None:
    """Raise FingerprintError unless this tokenizer decodes the run's codes."""
    stored, own = run.tokenizer["fingerprint"], tokenizer.fingerprint
    if stored["decode"] == own.decode:
        return
    if stored["codebook"] == own.codebook:
        reason = "the codebook is the same, but the decoder is another"
    else:
        reason = "the codebook is another"
    raise FingerprintError(
        f"{run.root} was made by {run.tokenizer['name']!r}, decode fingerprint "
        f"{stored['decode'][:CODES_FP_CHARS]}; this tokenizer has "
        f"{own.decode[:CODES_FP_CHARS]}: {reason}. Load the tokenizer that made the codes."
    )


def batch_rows(batch: Any) -> Iterator[dict[str, Any]]:
    """Rows of a record batch; `codes` as int64 [Q, *grid], or None."""
    names = [name for name in batch.schema.names if name != "codes"]
    plain = batch.select(names).to_pylist()
    codes = batch["codes"] if "codes" in batch.schema.names else None
    for index, row in enumerate(plain):
        if codes is not None:
            item = codes[index]
            flat = item.values.to_numpy(zero_copy_only=False) if item.is_valid else None
            shape = row.get("shape") or [-1]
            row["codes"] = None if flat is None else flat.astype(np.int64).reshape(shape)
        yield row
