"""Finished runs to vocabularies and to files: what `vqtok layout` and `vqtok export` do.

A run is anything with `rows(columns=None)`, `content` (its vqtok.json) and `root`, as
`vqtok.data.open_run` gives it.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vqtok.errors import ConfigError
from vqtok.layout.documents import (
    default_layout,
    largest_sizes,
    runs_for,
    sequences_of,
    template_for,
)
from vqtok.layout.export import ExportReport, export_codes, export_sequences
from vqtok.layout.items import Stream, reason_left_out
from vqtok.layout.join import SOURCE, join_rows
from vqtok.layout.sequence import Encoded, SequenceLayout
from vqtok.layout.storage import Layout
from vqtok.layout.template import PART, SIZES, specials_in
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
    grids: Mapping[str, Sequence[int]] | None = None,
    loss_on: Sequence[str] | None = None,
    pad_to: int = 1,
) -> Layout:
    """One vocabulary for the codes of finished runs, and templates over it.

    Args:
        runs: name of a stream to the run whose codes it is.
        templates: by name.
        text: as for `VocabLayout.build`, with `labels` and `pad_to`.
        specials: beside bos, eos, pad, eol and those that the templates name.
        sizes: as for `VocabLayout.build`; those that templates name and that are not given are as
            large as the runs' codes need.
        patterns: of streams, in every template that has the stream.
        grids: of streams whose items all have one; in every template that has the stream.
        loss_on: parts to learn; in every template those that it has.

    Raises:
        ConfigError: a name that no template has.
    """
    names = dict.fromkeys([*USUAL_SPECIALS, *specials_in(templates.values())])
    given = dict(sizes or {})
    measured = _sizes_in(templates.values(), runs, given.keys())
    vocab = VocabLayout.build(
        [Stream.from_manifest(name, run.content) for name, run in runs.items()],
        text=text,
        specials=names | dict(specials or {}),
        labels=labels,
        sizes=given | measured,
        pad_to=pad_to,
    )
    sequences = {}
    for name, words in templates.items():
        own, fixed = (
            {key: value for key, value in (options or {}).items() if f"{{{key}}}" in words}
            for options in (patterns, grids)
        )
        parts = {part.name for part in SequenceLayout(vocab, words, own, fixed).parts}
        learned = None if loss_on is None else [part for part in loss_on if part in parts]
        sequences[name] = SequenceLayout(vocab, words, own, fixed, loss_on=learned)
    known = {part.name for sequence in sequences.values() for part in sequence.parts}
    unknown = (set(patterns or {}) | set(grids or {}) | set(loss_on or ())) - known
    if unknown:
        raise ConfigError(f"{sorted(unknown)} are in no template; they have {sorted(known)}.")
    return Layout(vocab, sequences)


def _sizes_in(
    templates: Iterable[str], runs: Mapping[str, Any], given: Collection[str]
) -> dict[str, int]:
    """The sizes that templates name, but for those given, as large as the runs' codes need."""
    needed: dict[str, set[str]] = {}  # of a stream: the sizes that stand before it
    for words in templates:
        waiting: set[str] = set()
        for _, name in PART.findall(words):
            if name in SIZES and name not in given:
                waiting.add(name)
            elif name in runs:
                needed.setdefault(name, set()).update(waiting)
                waiting = set()
    largest: dict[str, int] = {}
    for name, sizes in needed.items():
        found = largest_sizes(runs[name].rows(columns=["shape"])) if sizes else {}
        for size in sizes & found.keys():
            largest[size] = max(largest.get(size, 0), found[size])
    return {size: largest[size] for size in SIZES if size in largest}


def export_runs(
    runs: Sequence[Any],
    out: str | os.PathLike,
    to: str,
    layout: str | os.PathLike | None = None,
    templates: Sequence[str] = (),
    packing: str | None = None,
    block_size: int | None = None,
    columns: Mapping[str, str] | None = None,
    join: str | None = None,
    text_tokenizer: Any = None,
    val_fraction: float | None = None,
    plain: bool = False,
) -> ExportReport:
    """Export the rows of runs; rows without codes are left out, and counted in the report.

    Args:
        runs: finished runs; several need a layout that has a template for each.
        out: a folder, new or empty.
        to: a name in `EXPORTERS`.
        layout: what `Layout.save` wrote; None: a vocabulary of the run's codes alone.
        templates: one after the other, each takes the runs whose codes it has; one with several
            streams takes rows that belong together. None named: run after run, each in the only
            template that takes its codes alone.
        packing: none, concat or best_fit; needs block_size.
        block_size: ids in a packed row.
        columns: part of a template to the column that holds it.
        join: how rows that belong together are found, see `join_rows`; None: by their source.
        text_tokenizer: the layout's, where text comes as str.
        val_fraction: sequences for validation, see `export_sequences`.
        plain: codes as they are, without vocabulary and template.

    Raises:
        ConfigError: options that do not go together.
    """
    about = [_about(run) for run in runs]
    if len({run.root.resolve() for run in runs}) < len(runs):
        raise ConfigError("a run is named twice; its rows would be written twice.")
    left_out: Counter = Counter()
    if plain:
        given = {"layout": layout, "template": templates, "packing": packing, "column": columns}
        _refuse_with_plain(runs, given | {"join": join, "text": text_tokenizer})
        return export_codes(
            _with_codes(runs[0], left_out), out, to, _stream(runs[0]), val_fraction, about, left_out
        )
    if layout is not None:
        made = Layout.load(layout, text_tokenizer)
    elif len(runs) == 1 and text_tokenizer is None:
        sizes = largest_sizes(runs[0].rows(columns=["shape"]))
        sizes.pop("length", None)  # the codes show it
        made = default_layout(_stream(runs[0]), sizes)
    else:
        raise ConfigError("several runs, or text, need a layout: make one with `vqtok layout`.")
    return export_sequences(
        _sequences(runs, made, templates, columns or {}, join, left_out),
        out,
        to,
        made,
        packing=packing,
        block_size=block_size,
        val_fraction=val_fraction,
        sources=about,
        left_out=left_out,
    )


def _with_codes(run: Any, left_out: Counter) -> Iterator[Any]:
    for row in run.rows():
        reason = reason_left_out(row)
        if reason is None:
            yield row
        else:
            left_out[reason] += 1


def _sequences(
    runs: Sequence[Any],
    layout: Layout,
    templates: Sequence[str],
    columns: Mapping[str, str],
    join: str | None,
    left_out: Counter,
) -> Iterator[Encoded]:
    used = [layout.sequence(name) for name in templates]
    used = used or (list(layout.sequences.values()) if len(layout.sequences) == 1 else [])
    parts = {part for sequence in used or layout.sequences.values() for part in sequence.inputs}
    if columns.keys() - parts:
        raise ConfigError(
            f"columns for {sorted(columns.keys() - parts)}; the templates take {sorted(parts)}."
        )
    plans = _plans(runs, layout, used)
    if join is not None and all(len(sequence.streams) == 1 for sequence, _ in plans):
        raise ConfigError(f"nothing to join by {join!r}: every template takes codes of one run.")
    for sequence, places in plans:
        own = {part: name for part, name in columns.items() if part in sequence.inputs}
        # keys of several runs say which one: its place in the report's `sources`
        prefixes = {place: f"{place}/" if len(runs) > 1 else "" for place in places}
        if len(sequence.streams) == 1:
            for place, prefix in prefixes.items():
                yield from sequences_of(runs[place].rows(), sequence, own, left_out, [prefix])
            continue
        paired = {n: runs[place] for n, place in zip(sequence.streams, places, strict=True)}
        pairs = join_rows(paired, join or SOURCE, left_out)
        yield from sequences_of(pairs, sequence, own, left_out, list(prefixes.values()))


def _plans(
    runs: Sequence[Any], layout: Layout, used: Sequence[SequenceLayout]
) -> list[tuple[SequenceLayout, list[int]]]:
    """Templates with the places of the runs that they take."""
    digests = [run.content["tokenizer"]["fingerprint"]["decode"] for run in runs]
    if not used:
        return [(template_for(layout, digest), [place]) for place, digest in enumerate(digests)]
    plans = [(sequence, runs_for(sequence, digests)) for sequence in used]
    idle = set(range(len(runs))) - {place for _, places in plans for place in places}
    if idle:
        names = [str(runs[place].root) for place in sorted(idle)]
        raise ConfigError(f"{names} hold codes of no stream of the templates that are used.")
    return plans


def _stream(run: Any) -> Stream:
    modality = run.content["tokenizer"]["modality"]
    # {text} in a template is the text of a text tokenizer
    return Stream.from_manifest("text_codes" if modality == "text" else modality, run.content)


def _about(run: Any) -> dict[str, Any]:
    made_by = run.content["tokenizer"]
    manifest = json.dumps(run.content, sort_keys=True).encode()
    about = {"run": run.root.resolve().name, "manifest": hashlib.sha256(manifest).hexdigest()}
    return about | {"tokenizer": made_by["name"]} | made_by["fingerprint"]


def _refuse_with_plain(runs: Sequence[Any], given: Mapping[str, Any]) -> None:
    useless = [name for name, value in given.items() if value]
    if useless or len(runs) != 1:
        raise ConfigError(
            f"plain codes come from one run and take no {', '.join(useless) or 'other run'}: "
            "they are written as they are."
        )
