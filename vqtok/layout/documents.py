"""Rows of tokenized datasets to sequences: which template takes a row, and where its labels are."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vqtok.errors import ConfigError, InputError
from vqtok.layout.items import MIN_DIGITS, Stream
from vqtok.layout.sequence import Encoded, SequenceLayout
from vqtok.layout.storage import Layout
from vqtok.layout.template import SIZES
from vqtok.layout.vocabulary import VocabLayout

# specials around the codes of a modality
BRACKETS = {"image": ("boi", "eoi"), "audio": ("boa", "eoa"), "text": ("bot", "eot")}
OTHER_BRACKETS = ("boc", "eoc")


def sequences_of(
    rows: Iterable[Mapping[str, Any]],
    layout: SequenceLayout,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Encoded]:
    """The rows that have codes, as sequences, in order.

    Args:
        rows: of a run whose tokenizer is that of the template's only stream.
        layout: the template; labels and text are read from the row.
        columns: part of the template to the column that holds it, where the names differ.

    Raises:
        ConfigError: the template has several streams, or names no part of it.
        InputError: a row without a column that the template needs.
    """
    if len(layout.streams) != 1:
        raise ConfigError(
            f"a row has the codes of one tokenizer; {layout.template!r} takes "
            f"{list(layout.streams)}. Join the rows yourself and call SequenceLayout.encode."
        )
    (stream,) = layout.streams
    others = [name for name in layout.inputs if name != stream]
    unknown = set(columns or {}) - set(others)
    if unknown:
        raise ConfigError(
            f"columns were given for {sorted(unknown)}; {layout.template!r} reads {others}."
        )
    names = {name: name for name in others} | dict(columns or {})
    for row in rows:
        if row.get("codes") is None:
            continue
        missing = sorted(set(names.values()) - set(row))
        if missing:
            raise InputError(
                f"a row has no column {missing[0]!r}, which {layout.template!r} needs. Tokenize "
                f"with --keep {missing[0]}, or say which column it is with --column PART=COLUMN."
            )
        parts = {name: row[column] for name, column in names.items()}
        yield layout.encode(parts | {stream: row}, key=str(row.get("id") or ""))


def default_layout(stream: Stream, sizes: Mapping[str, int]) -> Layout:
    """A vocabulary and a template for one stream: <bos>, its sizes, its codes, <eos>.

    Args:
        stream: whose codes they are.
        sizes: "height" and "width" of the largest grid for grids of two axes; empty for
            sequences, whose length the codes show.
    """
    begin, end = BRACKETS.get(stream.modality, OTHER_BRACKETS)
    specials = ["bos", "eos", "pad", "eol", begin, end]
    vocab = VocabLayout.build([stream], specials=specials, sizes=sizes)
    labels = "".join(f"{{{name}}}" for name in SIZES if name in sizes)
    template = f"<bos>{labels}<{begin}>{{{stream.name}}}<{end}><eos>"
    return Layout(vocab, {stream.name: SequenceLayout(vocab, template)})


def largest_grid(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The sizes of `default_layout`: of rows with grids of two axes the largest, else nothing."""
    shapes = [row["shape"][1:] for row in rows if row.get("shape") is not None]
    if not shapes or len(shapes[0]) != 2:
        return {}
    return {"height": max(s[0] for s in shapes), "width": max(s[1] for s in shapes)}


def template_for(layout: Layout, fingerprint: str, name: str | None = None) -> SequenceLayout:
    """The template that takes the codes of a tokenizer.

    Args:
        layout: the templates.
        fingerprint: decode fingerprint of the tokenizer.
        name: of the template; None: the only one whose single stream is this tokenizer's.

    Raises:
        ConfigError: none fits, or several do.
    """
    if name is not None:
        return layout.sequence(name)
    fitting = {
        key: seq
        for key, seq in layout.sequences.items()
        if len(seq.streams) == 1
        and layout.vocab.stream(seq.streams[0]).fingerprint.startswith(fingerprint)
    }
    if len(fitting) != 1:
        raise ConfigError(
            f"{len(fitting)} of the templates {sorted(layout.sequences)} take codes of the "
            f"tokenizer {fingerprint[:MIN_DIGITS]} alone. Say which one with --template."
        )
    return next(iter(fitting.values()))
