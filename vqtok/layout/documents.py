"""Rows of tokenized datasets to sequences: which template takes a row, and where its labels are."""

from collections import ChainMap, Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vqtok.errors import ConfigError, InputError, VqtokError, raised_again
from vqtok.layout.items import MIN_DIGITS, Stream, reason_left_out
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
    left_out: Counter | None = None,
    prefixes: Sequence[str] = (),
) -> Iterator[Encoded]:
    """The rows that have codes, as sequences, in order.

    Args:
        rows: of a run whose tokenizer is that of the template's only stream; for templates of
            several streams what `join_rows` gives: a row for each of them.
        layout: the template; labels and text are read from the rows.
        columns: part of the template to the column that holds it, where the names differ.
        left_out: counts the rows that are left out, by their status: bad ones, and texts of no
            length ("empty"), which no pattern can hold.
        prefixes: before the ids of the rows, stream by stream. A sequence's key is the id of its
            row, or a tuple of the ids where the template has several streams.

    Raises:
        ConfigError: `columns` names no part of the template.
        InputError: a row without a column that the template needs.
        VqtokError: what `SequenceLayout.encode` raises, with the row's id.
    """
    others = [name for name in layout.inputs if name not in layout.streams]
    unknown = set(columns or {}) - set(others)
    if unknown:
        raise ConfigError(
            f"columns were given for {sorted(unknown)}; {layout.template!r} reads {others}."
        )
    names = {name: name for name in others} | dict(columns or {})
    single = len(layout.streams) == 1
    prefixes = prefixes or [""] * len(layout.streams)
    for row in rows:
        together = {layout.streams[0]: row} if single else row
        reason = next(filter(None, map(reason_left_out, together.values())), None)
        if reason is not None:
            if left_out is not None:
                left_out[reason] += 1
            continue
        # a column that several runs kept is the same one
        merged = ChainMap(*together.values())
        missing = sorted(set(names.values()) - set(merged))
        if missing:
            raise InputError(
                f"a row has no column {missing[0]!r}, which {layout.template!r} needs. Tokenize "
                f"with --keep {missing[0]}, or say which column it is with --column PART=COLUMN."
            )
        parts = {name: merged[column] for name, column in names.items()}
        ids = (str(together[name].get("id") or "") for name in layout.streams)
        keys = tuple(map("".join, zip(prefixes, ids, strict=True)))
        try:
            sequence = layout.encode(parts | dict(together), key=keys[0] if single else keys)
        except VqtokError as error:
            raise raised_again(type(error).__name__, f"row {' + '.join(keys)}: {error}") from error
        yield sequence


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
    # a vector has one place: a prior that made two would lose the second
    grids = {stream.name: (1,)} if stream.modality == "embedding" else {}
    return Layout(vocab, {stream.name: SequenceLayout(vocab, template, grids=grids)})


def largest_sizes(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The largest "height" and "width" of grids of two axes, and "length" of those of one.

    Args:
        rows: of a run, with their shapes.
    """
    largest: dict[str, int] = {}
    for row in rows:
        grid = (row["shape"] or [0])[1:]
        for name, (axes, axis) in SIZES.items():
            if len(grid) == axes:
                largest[name] = max(largest.get(name, 0), grid[axis])
    return largest


def template_for(layout: Layout, fingerprint: str) -> SequenceLayout:
    """The only template whose single stream has the codes of a tokenizer.

    Raises:
        ConfigError: none fits, or several do.
    """
    fitting = [
        sequence
        for sequence in layout.sequences.values()
        if len(sequence.streams) == 1
        and layout.vocab.stream(sequence.streams[0]).fingerprint.startswith(fingerprint)
    ]
    if len(fitting) != 1:
        raise ConfigError(
            f"{len(fitting)} of the templates {sorted(layout.sequences)} take codes of the "
            f"tokenizer {fingerprint[:MIN_DIGITS]} alone. Say which one with --template."
        )
    return fitting[0]


def runs_for(sequence: SequenceLayout, digests: Sequence[str]) -> list[int]:
    """Which runs hold the codes of the template's streams.

    Args:
        sequence: the template.
        digests: decode fingerprints of the runs' tokenizers.

    Returns:
        Places in `digests`: of a template with one stream all that fit, of others one a stream.

    Raises:
        ConfigError: a stream without a run, several runs for one of several streams, or two
            streams of one tokenizer.
    """
    taken: list[int] = []
    for name in sequence.streams:
        stream = sequence.vocab.stream(name)
        fitting = [i for i, digest in enumerate(digests) if stream.fingerprint.startswith(digest)]
        if not fitting:
            raise ConfigError(
                f"{{{name}}} of {sequence.template!r} is for codes of "
                f"{stream.tokenizer or 'the tokenizer'} ({stream.fingerprint[:MIN_DIGITS]}); the "
                f"runs were made by {', '.join(digest[:MIN_DIGITS] for digest in digests)}."
            )
        taken += fitting
    count = len(sequence.streams)
    if count > 1 and (len(taken) > count or len(set(taken)) < count):
        raise ConfigError(
            f"{sequence.template!r} wants one run for each of {list(sequence.streams)}, and the "
            f"fingerprints fit {len(taken)}: export them one after the other, or pair the rows "
            "with vqtok.layout.join_rows."
        )
    return taken
