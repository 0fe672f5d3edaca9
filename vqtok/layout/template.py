"""Templates: what stands where in a sequence, written as `<bos>{class}<boi>{image}<eoi><eos>`.

`<name>` is a special, `{text}` text, `{height}`, `{width}` and `{length}` the sizes of the stream
that comes next, any other `{name}` the codes of a stream or a label.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vqtok.errors import ConfigError
from vqtok.layout.items import Stream
from vqtok.layout.patterns import Pattern, build_pattern
from vqtok.layout.vocabulary import VocabLayout

PART = re.compile(r"<([\w.-]+)>|\{([\w.-]+)\}")
ROW_END_NAME = "eol"  # the special that ends rows
# size labels, by the number of axes of the grid that they measure
SIZES = {"height": (2, 0), "width": (2, 1), "length": (1, 0)}


@dataclass(frozen=True)
class Part:
    """One part of a template.

    Attributes:
        kind: special, label, text or codes.
        name: of the special, the label or the stream.
        stream: of a size label: the stream that it measures.
        axis: of a size label: which axis of that stream's grid.
        pattern: of codes.
        grid: of codes: fixed by the template; None if it is told by labels or by the pattern.
        sized: of codes: the size labels before it that tell its grid, an axis each.
    """

    kind: str
    name: str
    stream: str = ""
    axis: int = 0
    pattern: Pattern | None = None
    grid: tuple[int, ...] | None = None
    sized: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"<{self.name}>" if self.kind == "special" else f"{{{self.name}}}"


def specials_in(templates: Iterable[str]) -> list[str]:
    """The specials that templates name, in the order in which they come."""
    found = (match.group(1) for words in templates for match in PART.finditer(words))
    return list(dict.fromkeys(name for name in found if name))


def parse_template(
    template: str,
    vocab: VocabLayout,
    patterns: Mapping[str, object],
    grids: Mapping[str, tuple[int, ...]],
) -> tuple[Part, ...]:
    """The parts of a template, checked against its vocabulary.

    Raises:
        ConfigError: an unknown name, or a sequence that could not be read back.
    """
    rest = PART.sub("", template).strip()
    if rest:
        raise ConfigError(f"a template holds <specials> and {{parts}} only; {rest!r} is neither.")
    parts, waiting = [], {}
    for found in PART.finditer(template):
        special, name = found.groups()
        if special:
            vocab.number("special", special)
            if special == "pad":
                raise ConfigError("<pad> stands around sequences, not in them: leave it out.")
            parts.append(Part("special", special))
        elif name == "text":
            vocab.number("text", "text")
            parts.append(Part("text", "text"))
        elif name in SIZES:
            waiting[name] = len(parts)
            parts.append(Part("label", name))
        elif name in vocab.streams:
            parts.append(_codes(vocab.streams[name], waiting, patterns, grids))
            for size, place in waiting.items():
                parts[place] = Part("label", size, stream=name, axis=SIZES[size][1])
            waiting = {}
        else:
            vocab.number("label", name)
            parts.append(Part("label", name))
    if waiting:
        raise ConfigError(f"{sorted(waiting)} measure no stream: none comes after them.")
    _check(parts, vocab, patterns, grids)
    return tuple(parts)


def _codes(stream: Stream, waiting: Mapping[str, int], patterns, grids) -> Part:
    name = stream.name
    grid = tuple(int(n) for n in grids[name]) if name in grids else None
    axes = {SIZES[size][0] for size in waiting}
    if len(axes) > 1 or (axes and len(waiting) != axes.copy().pop()):
        raise ConfigError(
            f"before {{{name}}} stands {sorted(waiting)}: a grid is told by height and width "
            "together, or by length."
        )
    if grid is not None and waiting:
        raise ConfigError(f"the grid of {name!r} is fixed to {grid}; size labels tell it again.")
    count = len(grid) if grid is not None else next(iter(axes), None)
    shown = "raster_rows" if stream.modality == "image" else "frame"
    default = {None: shown, 2: "raster"}.get(count, "frame")
    pattern = build_pattern(patterns.get(name, default))
    if not pattern.flat:
        raise ConfigError(
            f"the pattern {pattern.name!r} has a row of steps for every level, which takes a prior "
            "with as many heads. A sequence of ids takes delay_flat, frame or coarse_first."
        )
    if count is not None and pattern.axes not in (None, count):
        raise ConfigError(f"the pattern {pattern.name!r} cannot arrange a grid of {count} axes.")
    if count is None:
        pattern.candidates(1, [])  # refuses a pattern that does not show its grid
    # refuses an empty grid, and delays for another number of levels
    pattern.order(stream.num_codebooks, grid or (1,) * (count or pattern.axes or 1))
    sized = tuple(sorted(waiting, key=lambda size: SIZES[size][1]))
    return Part("codes", name, pattern=pattern, grid=grid, sized=sized)


def _check(parts: list[Part], vocab: VocabLayout, patterns, grids) -> None:
    """That a sequence has one reading."""
    names = [part.name for part in parts if part.kind != "special"]
    twice = {name for name in names if names.count(name) > 1}
    if twice or not parts:
        raise ConfigError(f"a template names each part once, and at least one; twice: {twice}.")
    unused = (set(patterns) | set(grids)) - {p.name for p in parts if p.kind == "codes"}
    if unused:
        raise ConfigError(f"patterns or grids for {sorted(unused)}, which the template has not.")
    for part, after in itertools.zip_longest(parts, parts[1:]):
        if part.kind == "label":
            vocab.number("label", part.name)
        if part.kind == "codes" and part.pattern.uses_row_end:
            vocab.number("special", ROW_END_NAME)
        open_end = part.kind == "text" or (part.kind == "codes" and not (part.grid or part.sized))
        if open_end and (after is None or after.kind != "special" or after.name == ROW_END_NAME):
            raise ConfigError(
                f"{part} has no fixed length, so a special must follow that ends it, "
                "for example <eos>."
            )
