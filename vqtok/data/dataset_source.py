"""A `datasets.Dataset` in memory or memory-mapped, undecoded, in the order of its rows."""

from collections.abc import Iterator
from typing import Any

from vqtok.data.sources import Choice, InputShard, RawSample, Segment, Source
from vqtok.data.tables import READ_ROWS, find_column, kept_fields, rows_of, sample_of
from vqtok.errors import InputError

NAME = "dataset"


class DatasetSource(Source):
    """Rows of a `datasets.Dataset`.

    Its version is the fingerprint that `datasets` keeps of it. An IterableDataset has no length to
    plan with: name its files instead.
    """

    kind = "dataset"

    def __init__(self, dataset: Any, choice: Choice):
        if not (hasattr(dataset, "features") and hasattr(dataset, "__len__")):
            raise InputError(
                f"a source is a path, a URL or a datasets.Dataset; got a {type(dataset).__name__}. "
                "Of a DatasetDict take one split; of an IterableDataset name the files."
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

    def list(self) -> list[InputShard]:
        return [InputShard(NAME, *self.version(NAME), rows=len(self.dataset))]

    def read_segment(self, segment: Segment) -> Iterator[RawSample]:
        end = segment.row_start + segment.row_count
        for start in range(segment.row_start, end, READ_ROWS):
            table = self.dataset[start : min(start + READ_ROWS, end)]
            rows = (row for batch in table.to_batches() for row in rows_of(batch))
            for offset, row in enumerate(rows):
                yield sample_of(row, self.column, self.kept_fields, NAME, start + offset)
