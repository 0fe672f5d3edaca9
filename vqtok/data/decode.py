"""Codes of a run back to files: one PNG per image, named after the input it came from."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vqtok.data.progress import rows_bar
from vqtok.data.reader import StoredRun, check_decodes, open_run
from vqtok.data.schema import CODES_FP_CHARS
from vqtok.data.sources import TABLE_SUFFIXES
from vqtok.errors import ConfigError, FingerprintError, FormatError

DECODE_ROWS = 8  # items handed to the tokenizer at once
SUFFIX = ".png"
COLUMNS = ["src", "src_row", "status", "codes", "shape", "orig_h", "orig_w", "meta", "codes_fp"]


@dataclass(frozen=True)
class DecodeReport:
    """What was written: `files` images; `skipped` rows had no codes."""

    out: str
    files: int
    skipped: int
    status: dict[str, int]

    def to_dict(self) -> dict:
        return asdict(self)

    def summary(self) -> str:
        """For a person: what was written, and what was not."""
        text = f"{self.out}: {self.files} files"
        return f"{text}, {self.skipped} rows without codes skipped" if self.skipped else text


def decode_dataset(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    tokenizer: Any,
    *,
    progress: bool = False,
) -> DecodeReport:
    """Write every row that has codes as a PNG under `out`, in folders like those of the source.

    `a/b.jpg` becomes `a/b.png`; where two inputs would share that name, both keep their suffix:
    `a/b.jpg.png`. Row 7 of `train.parquet` becomes `train/0000007.png`.

    Args:
        folder: a finished run.
        out: a new or empty folder.
        tokenizer: the one that made the codes; `stored_tokenizer(folder)` names it.
        progress: show a bar on stderr.

    Raises:
        ConfigError: `out` is not empty, or the run is not of images.
        FingerprintError: the codes were made by another tokenizer.
        FormatError: not a finished run, or names that would leave `out`.
    """
    run = open_run(folder)
    if run.tokenizer["modality"] != "image":
        raise ConfigError(
            f"{folder} holds codes of {run.tokenizer['modality']}; only images can be decoded to "
            "files so far. Read them with load_codes and call detokenize()."
        )
    check_decodes(run, tokenizer)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{out} is not an empty folder; choose another one to write into.")
    status: Counter[str] = Counter()
    names = file_names(run)
    rows = zip(names, run.rows(COLUMNS), strict=True)
    with rows_bar(run.content["totals"]["rows"], progress, "decode") as on_rows:
        while chunk := list(itertools.islice(rows, DECODE_ROWS)):
            status.update(row["status"] for _, row in chunk)
            good = [(name, row) for name, row in chunk if row["codes"] is not None]
            for _, row in good:
                check_row(row, run)
            images = tokenizer.detokenize([row for _, row in good]) if good else []
            for (name, _), image in zip(good, images, strict=True):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            on_rows(len(chunk))
    target.mkdir(parents=True, exist_ok=True)
    files = status["ok"]
    return DecodeReport(str(out), files, status.total() - files, dict(sorted(status.items())))


def stored_tokenizer(folder: str | os.PathLike) -> str:
    """What loads the tokenizer of a run: the name or folder that it was given by.

    Raises:
        FormatError: the run does not say.
    """
    name = open_run(folder).tokenizer["name"]
    if not name:
        raise FormatError(f"{folder} does not say what loads its tokenizer; pass --tokenizer.")
    return name


def file_names(run: StoredRun) -> Iterator[str]:
    """A file name for every row, in order; no two are the same, on any file system."""
    wanted = Counter(plain_name(row).casefold() for row in run.rows(["src", "src_row"]))
    taken: set[str] = set()
    for row in run.rows(["src", "src_row"]):
        name = plain_name(row)
        if wanted[name.casefold()] > 1:
            name = full_name(row)
        # a.jpg and a.jpg.gif beside a.png: both want a.jpg.png
        stem, number = name.removesuffix(SUFFIX), 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{SUFFIX}"
        taken.add(name.casefold())
        yield name


def plain_name(row: dict) -> str:
    """The file name of a row if no other row wanted the same."""
    source = PurePosixPath(row["src"])
    if source.is_absolute() or ".." in source.parts or "\\" in row["src"] or not source.name:
        raise FormatError(
            f"src {row['src']!r} is not a name inside a folder; this run was not written by "
            "vqtok, or was changed."
        )
    if in_table(source):
        return str(source.with_suffix("") / row_name(row))
    return str(source.with_suffix(SUFFIX))


def full_name(row: dict) -> str:
    """The file name of a row that shares its plain name with another."""
    return (
        f"{row['src']}/{row_name(row)}"
        if in_table(PurePosixPath(row["src"]))
        else row["src"] + SUFFIX
    )


def in_table(source: PurePosixPath) -> bool:
    return source.suffix.lower() in TABLE_SUFFIXES


def row_name(row: dict) -> str:
    return f"{row['src_row']:07d}{SUFFIX}"


def check_row(row: dict, run: StoredRun) -> None:
    """Raise FingerprintError unless the run's own tokenizer made the row."""
    own = run.tokenizer["fingerprint"]["decode"][:CODES_FP_CHARS]
    if row["codes_fp"] != own:
        raise FingerprintError(
            f"row {row['src_row']} of {row['src']} was made by the tokenizer {row['codes_fp']}, "
            f"but the run by {own}: the folder mixes two runs."
        )
