"""Finished runs to vocabularies and to files: what `vqtok layout` and `vqtok export` do.

A run is anything with `rows(columns=None)`, `content` (its vqtok.json) and `root`, as
`vqtok.data.open_run` gives it.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vqtok.errors import ConfigError
from vqtok.layout.documents import default_layout, largest_grid, sequences_of, template_for
from vqtok.layout.export import ExportReport, export_codes, export_sequences
from vqtok.layout.items import Stream
from vqtok.layout.sequence import SequenceLayout
from vqtok.layout.storage import Layout
from vqtok.layout.template import specials_in
from vqtok.layout.vocabulary import VocabLayout

USUAL_SPECIALS = ("bos", "eos", "pad", "eol")


def layout_of_runs(
    runs: Mapping[str, Any],
    templates: Mapping[str, str],
    text: Any = None,
    specials: Mapping[str, int | None] | None = None,
    labels: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    patterns: Mapping[str, str] | None = None,
    loss_on: Sequence[str] | None = None,
    pad_to: int = 1,
) -> Layout:
    """One vocabulary for the codes of finished runs, and templates over it.

    Args:
        runs: name of a stream to the run whose codes it is.
        templates: by name.
        text: as for `VocabLayout.build`, with `labels`, `sizes` and `pad_to`.
        specials: beside bos, eos, pad, eol and those that the templates name.
        patterns: of streams, in every template that has the stream.
        loss_on: parts to learn; in every template those that it has.

    Raises:
        ConfigError: a name that no template has.
    """
    names = dict.fromkeys([*USUAL_SPECIALS, *specials_in(templates.values())])
    vocab = VocabLayout.build(
        [Stream.from_manifest(name, run.content) for name, run in runs.items()],
        text=text,
        specials=names | dict(specials or {}),
        labels=labels,
        sizes=sizes,
        pad_to=pad_to,
    )
    sequences = {}
    for name, words in templates.items():
        own = {key: value for key, value in (patterns or {}).items() if f"{{{key}}}" in words}
        parts = {part.name for part in SequenceLayout(vocab, words, patterns=own).parts}
        learned = None if loss_on is None else [part for part in loss_on if part in parts]
        sequences[name] = SequenceLayout(vocab, words, patterns=own, loss_on=learned)
    known = {part.name for sequence in sequences.values() for part in sequence.parts}
    unknown = (set(patterns or {}) | set(loss_on or ())) - known
    if unknown:
        raise ConfigError(f"{sorted(unknown)} are in no template; they have {sorted(known)}.")
    return Layout(vocab, sequences)


def export_runs(
    runs: Sequence[Any],
    out: str | os.PathLike,
    to: str,
    layout: str | os.PathLike | None = None,
    template: str | None = None,
    packing: str | None = None,
    block_size: int | None = None,
    columns: Mapping[str, str] | None = None,
    text_tokenizer: Any = None,
    val_fraction: float | None = None,
    plain: bool = False,
) -> ExportReport:
    """Export the rows of runs, one run after the other; rows without codes are left out.

    Args:
        runs: finished runs; several need a layout that has a template for each.
        out: a folder, new or empty.
        to: a name in `EXPORTERS`.
        layout: what `Layout.save` wrote; None: a vocabulary of the run's codes alone.
        template: for all runs; None: for each run the only one that takes its codes.
        packing: none, concat or best_fit; needs block_size.
        block_size: ids in a packed row.
        columns: part of a template to the column that holds it.
        text_tokenizer: the layout's, where text comes as str.
        val_fraction: rows for validation.
        plain: codes as they are, without vocabulary and template.

    Raises:
        ConfigError: options that do not go together.
    """
    about = [_about(run) for run in runs]
    if plain:
        _refuse_with_plain(runs, layout, template, packing, columns, text_tokenizer)
        rows = (row for row in runs[0].rows() if row.get("codes") is not None)
        return export_codes(rows, out, to, _stream(runs[0]), val_fraction, about)
    if layout is not None:
        made = Layout.load(layout, text_tokenizer)
    elif len(runs) == 1 and text_tokenizer is None:
        stream = _stream(runs[0])
        sizes = largest_grid(runs[0].rows(columns=["shape"]))
        made = default_layout(stream, sizes)
    else:
        raise ConfigError("several runs, or text, need a layout: make one with `vqtok layout`.")
    return export_sequences(
        _sequences(runs, made, template, columns),
        out,
        to,
        made,
        packing=packing,
        block_size=block_size,
        val_fraction=val_fraction,
        sources=about,
    )


def _sequences(
    runs: Sequence[Any],
    layout: Layout,
    template: str | None,
    columns: Mapping[str, str] | None,
) -> Iterator[Any]:
    def of(run: Any) -> Iterable[Any]:
        digest = run.content["tokenizer"]["fingerprint"]["decode"]
        sequence = template_for(layout, digest, template)
        own = {part: name for part, name in (columns or {}).items() if part in sequence.inputs}
        return sequences_of(run.rows(), sequence, own)

    parts = {part for sequence in layout.sequences.values() for part in sequence.inputs}
    unknown = set(columns or {}) - parts
    if unknown:
        raise ConfigError(f"columns for {sorted(unknown)}; the templates take {sorted(parts)}.")
    return itertools.chain.from_iterable(map(of, runs))


def _stream(run: Any) -> Stream:
    modality = run.content["tokenizer"]["modality"]
    # {text} in a template is the text of a text tokenizer
    return Stream.from_manifest("text_codes" if modality == "text" else modality, run.content)


def _about(run: Any) -> dict[str, Any]:
    made_by = run.content["tokenizer"]
    return {"run": str(run.root), "tokenizer": made_by["name"]} | made_by["fingerprint"]


def _refuse_with_plain(
    runs: Sequence[Any],
    layout: Any,
    template: Any,
    packing: Any,
    columns: Any,
    text_tokenizer: Any,
) -> None:
    given = {
        "layout": layout,
        "template": template,
        "packing": packing,
        "column": columns,
        "text": text_tokenizer,
    }
    useless = [name for name, value in given.items() if value]
    if useless or len(runs) != 1:
        raise ConfigError(
            f"plain codes come from one run and take no {', '.join(useless) or 'other run'}: "
            "they are written as they are."
        )
