"""Writes sequences, packed rows or plain codes in one of the formats, whole or not at all.

Everything is written into a hidden folder beside `out`, which takes the name `out` at the end.
Beside the format's own files lie vqtok_export.json (what was written) and vqtok_layout.json.
"""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vqtok.errors import ConfigError, InputError
from vqtok.layout.export.base import TRAIN, VALIDATION, Exporter, Record, Target
from vqtok.layout.export.hf import HuggingFaceExporter
from vqtok.layout.export.litdata import LitDataExporter
from vqtok.layout.export.mds import MDSExporter
from vqtok.layout.export.megatron import MegatronExporter
from vqtok.layout.export.memmap import MemmapExporter
from vqtok.layout.export.nanogpt import NanoGPTExporter
from vqtok.layout.export.split import split_items
from vqtok.layout.export.webdataset import WebDatasetExporter
from vqtok.layout.items import Stream, read_item
from vqtok.layout.packing import PackedRow, Packer, build_packer
from vqtok.layout.packing.rows import PADDING
from vqtok.layout.sequence import Encoded
from vqtok.layout.storage import Layout

EXPORTERS: dict[str, type[Exporter]] = {
    exporter.name: exporter
    for exporter in (
        HuggingFaceExporter,
        MemmapExporter,
        NanoGPTExporter,
        MegatronExporter,
        WebDatasetExporter,
        MDSExporter,
        LitDataExporter,
    )
}
REPORT = "vqtok_export.json"


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        format: its name.
        out: the folder.
        rows: records by split.
        ids: ids written, padding included.
        efficiency: the share of them that is no padding.
        dtype: of the ids on disk.
        vocab_size: every id is below it.
        packing: the method, or None.
        block_size: ids in a row, if packed.
        layout: fingerprint of the vocabulary; None for plain codes.
        left_out: rows that could not be written, by reason.
        sources: what the caller says about where the codes came from.
    """

    format: str
    out: str
    rows: dict[str, int]
    ids: int
    efficiency: float
    dtype: str
    vocab_size: int
    packing: str | None
    block_size: int | None
    layout: str | None
    left_out: dict[str, int]
    sources: list[Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        rows = ", ".join(f"{count:,} {split}" for split, count in self.rows.items())
        text = f"{self.out}: {self.format}, {rows} rows, {self.ids:,} ids as {self.dtype}"
        text += f", {self.efficiency:.1%} of them no padding" if self.packing else ""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return text + (f"; left out: {reasons}" if reasons else "")


def export_sequences(
    sequences: Iterable[Encoded],
    out: str | os.PathLike,
    to: str,
    layout: Layout,
    packing: str | None = None,
    block_size: int | None = None,
    val_fraction: float | None = None,
    sources: Iterable[Any] = (),
    left_out: Mapping[str, int] | None = None,
) -> ExportReport:
    """Write sequences of a layout.

    Args:
        sequences: what `SequenceLayout.encode` gives, in the order in which they are written.
        out: a folder, new or empty.
        to: hf, memmap, nanogpt, megatron, webdataset, mds or litdata.
        layout: whose vocabulary the ids are of; it is saved beside them.
        packing: none (a padded row each), concat or best_fit; None: sequences as they are.
        block_size: ids in a packed row.
        val_fraction: sequences for validation, evenly spread; each is whole in one split, and
            every split is packed on its own. None: the format's own habit, and at least one.
        sources: carried into vqtok_export.json.
        left_out: rows that did not become sequences, by reason; counted while they are read.

    Raises:
        ConfigError: an unknown format, options that do not go together, a folder with content,
            nothing for validation.
        CodeRangeError: the format cannot hold the vocabulary.
        InputError: no sequences, or one that does not fit into a row.
    """
    if (packing is None) != (block_size is None):
        raise ConfigError("packing and block_size go together: pass both, or neither.")
    job = _Job(Path(out), to, layout.vocab.size, val_fraction, packing, block_size, layout)
    return job.run(iter(sequences), list(sources), {} if left_out is None else left_out)


def export_codes(
    rows: Iterable[Mapping[str, Any]],
    out: str | os.PathLike,
    to: str,
    stream: Stream,
    val_fraction: float | None = None,
    sources: Iterable[Any] = (),
    left_out: Mapping[str, int] | None = None,
) -> ExportReport:
    """Write codes as they are, without vocabulary or template; for priors that mask or diffuse.

    Args:
        rows: rows of a run, or VQTokens, of the stream's tokenizer.
        out: a folder, new or empty.
        to: hf, memmap, webdataset or mds; the other formats need a layout.
        stream: whose codes they are.
        val_fraction: as for sequences.
        sources: carried into vqtok_export.json.
        left_out: as for sequences.
    """

    def records() -> Iterator[Record]:
        for row in rows:
            item = read_item(row)
            stream.check(item)
            key = str(row.get("id") or "") if isinstance(row, Mapping) else ""
            codes = item.codes.numpy()
            yield Record(codes.reshape(-1), key=key, shape=tuple(codes.shape))

    job = _Job(Path(out), to, max(stream.codebook_sizes), val_fraction, None, None, None)
    return job.run(records(), list(sources), {} if left_out is None else left_out)


@dataclass(frozen=True)
class _Job:
    out: Path
    to: str
    vocab_size: int
    val_fraction: float | None
    packing: str | None
    block_size: int | None
    layout: Layout | None

    def run(
        self, items: Iterator[Encoded | Record], sources: list[Any], left_out: Mapping[str, int]
    ) -> ExportReport:
        if self.to not in EXPORTERS:
            raise ConfigError(f"there is no format {self.to!r}; there are {', '.join(EXPORTERS)}.")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ConfigError(f"{self.out} has content; export into a new or an empty folder.")
        kind = EXPORTERS[self.to]
        if self.layout is None and not kind.takes_codes:
            raise ConfigError(
                f"{self.to} holds sequences of ids: codes need a layout. Make one with "
                "`vqtok layout`, and pass --layout; or export to hf, memmap, webdataset or mds."
            )
        kind.choose_dtype(self.vocab_size)
        packers = {split: self._packer() for split in (TRAIN, VALIDATION)}
        first = next(items, None)
        if first is None:
            why = f" Left out: {dict(left_out)}." if left_out else ""
            raise InputError(f"there is nothing to export: no sequence came.{why}", status="empty")
        items = itertools.chain([first], items)
        splits, placed = split_items(items, self.val_fraction, kind.default_val_fraction)
        records = _records(placed, packers)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{self.out.name}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self.out.parent))
        try:
            report = self._write(folder, splits, records, sources, left_out)
            folder.chmod(0o755)  # mkdtemp makes it for its owner alone
            _to_disk(folder)
            # takes the place of an empty folder, and of nothing else
            folder.rename(self.out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return report

    def _packer(self) -> Packer | None:
        if self.packing is None:
            return None
        return build_packer(self.packing, self.block_size, self.layout.vocab.special("pad"))

    def _write(
        self,
        folder: Path,
        splits: list[str],
        records: Iterable[tuple[str, Record]],
        sources: list[Any],
        left_out: Mapping[str, int],
    ) -> ExportReport:
        kind = EXPORTERS[self.to]
        rows, ids, used = dict.fromkeys(splits, 0), 0, 0
        with contextlib.ExitStack() as files:
            vocab = None if self.layout is None else self.layout.vocab
            begin = vocab.special("bos") if vocab and "bos" in vocab.specials else None
            target = Target(folder, self.vocab_size, files, self.block_size, begin)
            exporters = {split: kind(target, split) for split in rows}
            for split, record in records:
                exporters[split].add(record)
                rows[split] += 1
                ids += record.ids.size
                padded = record.document_ids
                used += record.ids.size if padded is None else int((padded != PADDING).sum())
            for exporter in exporters.values():
                exporter.close()
        report = ExportReport(
            format=self.to,
            out=str(self.out),
            rows=rows,
            ids=ids,
            efficiency=used / ids if ids else 0.0,
            dtype=exporters[TRAIN].dtype.name,
            vocab_size=self.vocab_size,
            packing=self.packing,
            block_size=self.block_size,
            layout=None if self.layout is None else self.layout.vocab.fingerprint,
            left_out=dict(left_out),
            sources=sources,
        )
        if self.layout is not None:
            self.layout.save(folder)
        text = json.dumps(report.to_dict() | {"out": self.out.name}, indent=1)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")
        return report


def _records(
    placed: Iterable[tuple[str, Encoded | Record]], packers: Mapping[str, Packer | None]
) -> Iterator[tuple[str, Record]]:
    """What is written, by split; every split is packed on its own."""
    for split, item in placed:
        packer = packers[split]
        for row in [item] if packer is None else packer.add(item):
            yield split, _record(row)
    for split, packer in packers.items():
        for row in () if packer is None else packer.finish():
            yield split, _record(row)


def _record(row: Encoded | PackedRow | Record) -> Record:
    if isinstance(row, Record):
        return row
    return Record(
        ids=row.ids,
        key=row.key,
        loss_mask=row.loss_mask,
        document_ids=getattr(row, "document_ids", None),
        position_ids=getattr(row, "position_ids", None),
    )


def _to_disk(folder: Path) -> None:
    """What has a name after a power cut has its content too."""
    for path in [*folder.rglob("*"), folder]:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
