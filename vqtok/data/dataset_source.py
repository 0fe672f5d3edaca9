"""A `datasets.Dataset` in memory or memory-mapped, undecoded, in the order of its rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqtok.data.files import LocalFiles
from vqtok.data.sources import Choice, InputShard, RawSample, Segment, Source
from vqtok.data.tables import (
    READ_ROWS,
    find_column,
    kept_fields,
    rows_of,
    sample_of,
    with_path_read,
)
from vqtok.errors import InputError

NAME = "dataset"
STREAMED = (
    "an IterableDataset cannot be planned: it has no length, and no row can be read without all "
    "before it. Name its files instead, which are streamed as well: hf://datasets/NAME{split} for "
    "a dataset on the Hub, or a URL, folder or pattern; or load it without streaming=True."
)


class DatasetSource(Source):
    """Rows of a `datasets.Dataset`.

    Its version is the fingerprint that `datasets` keeps of it. A cell that only names a file, as
    those of "imagefolder" do, is read from there.
    """

    kind = "dataset"

    def __init__(self, dataset: Any, choice: Choice):
        if hasattr(dataset, "features") and not hasattr(dataset, "__len__"):
            split = getattr(dataset, "split", None)
            raise InputError(STREAMED.format(split=f":{split}" if split else "[:SPLIT]"))
        if not (hasattr(dataset, "features") and hasattr(dataset, "_fingerprint")):
            splits = f" ({list(dataset)})" if isinstance(dataset, dict) else ""
            raise InputError(
                f"a source is a path, a URL or a datasets.Dataset; got a {type(dataset).__name__}"
                f"{splits}. Of a DatasetDict take one split; of an IterableDataset name the files."
            )
        self.modality, self.ignored, self.names = choice.modality, choice.ignored, [NAME]
        schema = dataset.features.arrow_schema
        self.column = find_column(schema, choice.column, choice.modality, "the dataset")
        self.kept_fields = kept_fields(schema, choice.keep, "the dataset")
        columns = list(dict.fromkeys([self.column, *choice.keep]))
        self.dataset = dataset.select_columns(columns).with_format("arrow")
        self.fingerprint = dataset._fingerprint

    @property
    def location(self) -> str:
        return f"datasets.Dataset {self.fingerprint}"

    def version(self, uri: str) -> tuple[int, str]:
        return len(self.dataset), self.fingerprint

    def check(self, segment: Segment) -> None:
        """Nobody changes a dataset that is loaded."""

    def list(self) -> list[InputShard]:
        return [InputShard(NAME, *self.version(NAME), rows=len(self.dataset))]

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        end = segment.row_start + segment.row_count
        for start in range(segment.row_start, end, READ_ROWS):
            table = self.dataset[start : min(start + READ_ROWS, end)]
            rows = (row for batch in table.to_batches() for row in rows_of(batch))
            for offset, row in enumerate(rows):
                sample = sample_of(row, self.column, self.kept_fields, NAME, start + offset)
                yield with_path_read(sample, row[self.column], read_path)


def read_path(name: str, path: str) -> bytes:
    """The file that a cell names, on this machine."""
    files = LocalFiles(Path())
    return files.read(path, files.version(path)[0])
