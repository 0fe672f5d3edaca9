"""Codes of a run back to files, named after the inputs they came from; see `vqtok.data.writers`."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vqtok.data.progress import progress_of
from vqtok.data.reader import StoredRun, check_decodes, open_run
from vqtok.data.schema import CODES_FP_CHARS
from vqtok.data.sources import holds_many
from vqtok.data.writers import VectorFile, chosen_format, write_item
from vqtok.errors import ConfigError, FingerprintError, FormatError

# items handed to the tokenizer at once
DECODE_ROWS = {"image": 8, "audio": 8, "text": 64, "embedding": 1024}
PLACE = ["src", "src_row"]
COLUMNS = [*PLACE, "status", "codes", "shape", "orig_h", "orig_w", "meta", "codes_fp"]


@dataclass(frozen=True)
class DecodeReport:
    """What was written: `files`; `skipped` rows had no codes."""

    out: str
    files: int
    rows: int
    skipped: int
    status: dict[str, int]

    def to_dict(self) -> dict:
        return asdict(self)

    def summary(self) -> str:
        """For a person: what was written, and what was not."""
        text = f"{self.out}: {self.files} files, {self.rows} rows"
        return f"{text}, {self.skipped} rows without codes skipped" if self.skipped else text


def decode_dataset(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    tokenizer: Any,
    *,
    file_format: str | None = None,
    progress: bool | str = False,
) -> DecodeReport:
    """Write every row that has codes as a file under `out`, in folders like those of the source.

    `a/b.jpg` becomes `a/b.png`; where two inputs would share that name, both keep their suffix:
    `a/b.jpg.png`. Row 7 of `train.parquet` becomes `train/0000007.png`. Vectors are the exception:
    all rows of `train.parquet` or `train.npz` are one array, `train.npy`.

    Args:
        folder: a finished run.
        out: a new or empty folder.
        tokenizer: the one that made the codes; `stored_tokenizer(folder)` names it.
        file_format: "png", "wav" or "flac", "txt", "npy"; default: the modality's first.
        progress: "bar" (or True), "json" or "none" (or False), on stderr.

    Raises:
        ConfigError: `out` is not empty, or the modality has no such format.
        FingerprintError: the codes were made by another tokenizer.
        FormatError: not a finished run, or names that would leave `out`.
    """
    run = open_run(folder)
    modality = run.tokenizer["modality"]
    suffix = "." + chosen_format(modality, file_format)
    check_decodes(run, tokenizer)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{out} is not an empty folder; choose another one to write into.")
    status: Counter[str] = Counter()
    write = decode_vectors if modality == "embedding" else decode_items
    with progress_of(run.content["totals"]["rows"], progress, "decode") as on_rows:
        files = write(run, tokenizer, target, suffix, status, on_rows)
    target.mkdir(parents=True, exist_ok=True)
    rows = status["ok"]
    return DecodeReport(str(out), files, rows, status.total() - rows, dict(sorted(status.items())))


def decode_items(
    run: StoredRun,
    tokenizer: Any,
    target: Path,
    suffix: str,
    status: Counter[str],
    on_rows: Callable[[int], None],
) -> int:
    """A file for every row with codes; returns how many."""
    modality = run.tokenizer["modality"]
    names = file_names(run, suffix)
    rows = zip(names, run.rows(COLUMNS), strict=True)
    while chunk := list(itertools.islice(rows, DECODE_ROWS[modality])):
        good = [(name, row) for name, row in chunk if row["codes"] is not None]
        items = decoded(run, tokenizer, [row for _, row in good])
        for (name, _), item in zip(good, items, strict=True):
            write_item(target / name, item, modality)
        status.update(row["status"] for _, row in chunk)
        on_rows(len(chunk))
    return status["ok"]


def decode_vectors(
    run: StoredRun,
    tokenizer: Any,
    target: Path,
    suffix: str,
    status: Counter[str],
    on_rows: Callable[[int], None],
) -> int:
    """An array for every source file with a vector that has codes; returns how many."""
    rows_in = Counter(row["src"] for row in run.rows(["src"]))
    names = dict(zip(rows_in, source_names(rows_in, suffix), strict=True))
    files = 0
    for source, rows in itertools.groupby(run.rows(COLUMNS), key=lambda row: row["src"]):
        file = VectorFile(target / names[source], rows_in[source])
        while chunk := list(itertools.islice(rows, DECODE_ROWS["embedding"])):
            good = [row for row in chunk if row["codes"] is not None]
            places = [row["src_row"] for row in good]
            file.write(places, decoded(run, tokenizer, good))
            status.update(row["status"] for row in chunk)
            on_rows(len(chunk))
        files += file.close()
    return files


def decoded(run: StoredRun, tokenizer: Any, rows: list[dict]) -> list[Any]:
    """The raw items of rows that have codes."""
    for row in rows:
        check_row(row, run)
    return tokenizer.detokenize(rows) if rows else []


def stored_tokenizer(folder: str | os.PathLike) -> str:
    """What loads the tokenizer of a run: the name or folder that it was given by.

    Raises:
        FormatError: the run does not say.
    """
    name = open_run(folder).tokenizer["name"]
    if not name:
        raise FormatError(f"{folder} does not say what loads its tokenizer; pass --tokenizer.")
    return name


def file_names(run: StoredRun, suffix: str) -> Iterator[str]:
    """A file name for every row, in order; no two are the same, on any file system."""
    wanted = Counter(plain_name(row, suffix).casefold() for row in run.rows(PLACE))
    rows = run.rows(PLACE)
    yield from distinct(((plain_name(row, suffix), full_name(row, suffix)) for row in rows), wanted)


def source_names(sources: Iterable[str], suffix: str) -> Iterator[str]:
    """A file name for every source file, in order; no two are the same."""
    pairs = [(str(checked_source(name).with_suffix(suffix)), name + suffix) for name in sources]
    yield from distinct(pairs, Counter(plain.casefold() for plain, _ in pairs))


def distinct(names: Iterable[tuple[str, str]], wanted: Counter[str]) -> Iterator[str]:
    """The plain name where nobody else wants it, else the full one, else that with a number."""
    taken: set[str] = set()
    for plain, full in names:
        name = full if wanted[plain.casefold()] > 1 else plain
        # a.jpg and a.jpg.gif beside a.png: both want a.jpg.png
        stem, suffix = os.path.splitext(name)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        taken.add(name.casefold())
        yield name


def checked_source(name: str) -> PurePosixPath:
    source = PurePosixPath(name)
    if source.is_absolute() or ".." in source.parts or "\\" in name or not source.name:
        raise FormatError(
            f"src {name!r} is not a name inside a folder; this run was not written by vqtok, or "
            "was changed."
        )
    return source


def plain_name(row: dict, suffix: str) -> str:
    """The file name of a row if no other row wanted the same."""
    source = checked_source(row["src"])
    if holds_many(source):
        return str(source.with_suffix("") / row_name(row, suffix))
    return str(source.with_suffix(suffix))


def full_name(row: dict, suffix: str) -> str:
    """The file name of a row that shares its plain name with another."""
    if holds_many(PurePosixPath(row["src"])):
        return f"{row['src']}/{row_name(row, suffix)}"
    return row["src"] + suffix


def row_name(row: dict, suffix: str) -> str:
    return f"{row['src_row']:07d}{suffix}"


def check_row(row: dict, run: StoredRun) -> None:
    """Raise FingerprintError unless the run's own tokenizer made the row."""
    own = run.tokenizer["fingerprint"]["decode"][:CODES_FP_CHARS]
    if row["codes_fp"] != own:
        raise FingerprintError(
            f"row {row['src_row']} of {row['src']} was made by the tokenizer {row['codes_fp']}, "
            f"but the run by {own}: the folder mixes two runs."
        )
