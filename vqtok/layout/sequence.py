"""Sequences for a prior: a template filled with labels, text and codes, and read back exactly.

vocab = VocabLayout.build([Stream.from_tokenizer("image", tok)], labels={"class": 10},
                          sizes={"height": 32, "width": 32},
                          specials=["bos", "eos", "pad", "boi", "eoi"])
layout = SequenceLayout(vocab, "<bos>{class}{height}{width}<boi>{image}<eoi><eos>")
ids = layout.encode({"class": 3, "image": tokens}).ids
parts = layout.decode(ids)              # {"class": 3, "height": 16, ..., "image": CodeItem}
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from vqtok.errors import ConfigError, FormatError, InputError
from vqtok.layout.items import CodeItem, read_item
from vqtok.layout.template import ROW_END_NAME, SIZES, Part, parse_template
from vqtok.layout.vocabulary import VocabLayout, as_array

IGNORED = -100  # what transformers' losses leave out
# which input a sequence came from: the id of its row, or of several rows that belong together
Key = str | tuple[str, ...]
NULL = "null"  # stands for a label that was left out


@dataclass(frozen=True, eq=False)
class Encoded:
    """One sequence.

    Attributes:
        ids: [S], the vocabulary's dtype.
        loss_mask: bool [S]: True where a prior is to learn the id.
        key: which input it came from.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    key: Key = ""

    @property
    def labels(self) -> np.ndarray:
        """int64 [S]: the ids, and -100 where nothing is to be learned."""
        return labels_of(self.ids, self.loss_mask)


def labels_of(ids: np.ndarray, loss_mask: np.ndarray) -> np.ndarray:
    """int64, the shape of both: the ids, and -100 where the mask is False."""
    return np.where(loss_mask, ids.astype(np.int64), IGNORED)


class SequenceLayout:
    """A template over a vocabulary.

    Args:
        vocab: the ids.
        template: see vqtok/layout/template.py.
        patterns: stream to pattern, a name or what `Pattern.to_json` gives. Default: raster where
            the grid is known, raster_rows for images and frame for the rest where it is not.
        grids: stream to a grid that all its items have.
        loss_on: names of parts and specials that a prior is to learn; None: all of them.
        text_tokenizer: so that text may come as str; must be the vocabulary's.

    Raises:
        ConfigError: a name that the vocabulary has not, or a template that could not be read back.
    """

    def __init__(
        self,
        vocab: VocabLayout,
        template: str,
        patterns: Mapping[str, Any] | None = None,
        grids: Mapping[str, Sequence[int]] | None = None,
        loss_on: Sequence[str] | None = None,
        text_tokenizer: Any = None,
    ):
        self.vocab = vocab
        self.template = template
        self.parts = parse_template(template, vocab, patterns or {}, grids or {})
        self.loss_on = None if loss_on is None else tuple(loss_on)
        unknown = set(loss_on or ()) - {part.name for part in self.parts}
        if unknown:
            raise ConfigError(f"loss_on names {sorted(unknown)}, which {template!r} has not.")
        if text_tokenizer is not None:
            if vocab.text is None:
                raise ConfigError("a text tokenizer came for a vocabulary without text.")
            vocab.text.check(text_tokenizer)
        self.text_tokenizer = text_tokenizer
        self._plans = {part.name: self._plan(part) for part in self.parts if part.kind == "codes"}

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams in the template, in its order."""
        return tuple(part.name for part in self.parts if part.kind == "codes")

    @property
    def inputs(self) -> tuple[str, ...]:
        """What `encode` must be given: all parts but specials and sizes."""
        given = (p for p in self.parts if p.kind != "special" and not p.stream)
        return tuple(part.name for part in given)

    def encode(self, row: Mapping[str, Any], key: Key = "") -> Encoded:
        """Fill the template.

        Args:
            row: for every name in `inputs`: codes as VQTokens, a row of a run or a mapping with
                codes and fingerprint; a label's value, or None for <null>; text as ids or str.
            key: carried along.

        Raises:
            InputError: a part is missing, or one came that the template has not.
            FingerprintError: codes of another tokenizer.
        """
        if set(row) != set(self.inputs):
            raise InputError(
                f"{self.template!r} takes exactly {list(self.inputs)}; got {sorted(row)}."
            )
        items = {name: read_item(row[name]) for name in self.streams}
        pieces = [self._encode_part(part, row, items) for part in self.parts]
        learned = [self.loss_on is None or part.name in self.loss_on for part in self.parts]
        mask = np.repeat(learned, [len(piece) for piece in pieces])
        return Encoded(np.concatenate(pieces).astype(self.vocab.dtype), mask, key)

    def decode(self, ids: np.ndarray | Tensor | Sequence[int]) -> dict[str, Any]:
        """Read a sequence back; <pad> before and after it is skipped.

        Returns:
            Name to value: a CodeItem for codes, an int (or None for <null>) for labels and sizes,
            an int64 array of ids for text.

        Raises:
            FormatError: not a sequence of this template; the message names the position.
        """
        array = as_array(ids)
        if array.ndim != 1:
            raise FormatError(f"a sequence is one row of ids; got shape {list(array.shape)}.")
        return _Reader(self, array).read()

    def plan(self, part: Part) -> np.ndarray:
        """int64 [Q] range numbers of a codes part's levels, and last that of its row end."""
        return self._plans[part.name]

    def _plan(self, part: Part) -> np.ndarray:
        stream = self.vocab.stream(part.name)
        levels = [self.vocab.number("codes", part.name, q) for q in range(stream.num_codebooks)]
        row_end = self.vocab.number("special", ROW_END_NAME) if part.pattern.uses_row_end else -1
        return np.array([*levels, row_end], np.int64)  # so that mark -1 finds the row end

    def logits_processor(self, max_length: int | None = None) -> Any:
        """A LogitsProcessor that lets only legal ids through; see logits_processor.py."""
        from vqtok.layout.logits_processor import LegalIds

        return LegalIds(self, max_length)

    def to_json(self) -> dict[str, Any]:
        codes = [part for part in self.parts if part.kind == "codes"]
        return {
            "template": self.template,
            "patterns": {part.name: part.pattern.to_json() for part in codes},
            "grids": {part.name: list(part.grid) for part in codes if part.grid},
            "loss_on": None if self.loss_on is None else list(self.loss_on),
        }

    def _encode_part(
        self, part: Part, row: Mapping[str, Any], items: Mapping[str, CodeItem]
    ) -> np.ndarray:
        vocab = self.vocab
        if part.kind == "special":
            return np.array([vocab.special(part.name)])
        if part.kind == "text":
            return vocab.encode_text(self._text_ids(row["text"]))
        if part.kind == "label":
            value = row.get(part.name)
            if part.stream:
                shape = items[part.stream].codes.shape[1:]
                self._check_axes(part, shape)
                value = shape[part.axis]
            elif value is None:
                return np.array([vocab.special(NULL)])
            return np.array([vocab.label(part.name, _whole(part, value))])
        item = items[part.name]
        grid = tuple(item.codes.shape[1:])
        if part.grid is not None and grid != part.grid:
            raise InputError(f"the template fixes {part} to the grid {part.grid}; got {grid}.")
        row_end = vocab.special(ROW_END_NAME) if part.pattern.uses_row_end else None
        if part.grid is None and not part.sized:
            part.pattern.check(1, grid)
            self._check_free(part, grid)
        ids = vocab.encode(
            part.name, {"codes": item.codes.numpy(), "fingerprint": item.fingerprint}
        )
        return part.pattern.apply(ids, row_end=row_end).ids

    def _check_axes(self, part: Part, shape: Sequence[int]) -> None:
        axes = SIZES[part.name][0]
        if len(shape) != axes:
            raise InputError(
                f"{part} measures a grid of {axes} axes; {part.stream!r} has {list(shape)}."
            )

    def _check_free(self, part: Part, grid: Sequence[int]) -> None:
        if part.pattern.axes is None and len(grid) != 1:
            raise InputError(
                f"the pattern {part.pattern.name!r} without sizes is read back as one axis; "
                f"{part} has the grid {list(grid)}. Put {{height}}{{width}} before it."
            )

    def _text_ids(self, text: Any) -> Any:
        if not isinstance(text, str):
            return [] if text is None else text
        if self.text_tokenizer is None:
            raise ConfigError(
                "text came as str: give SequenceLayout the text_tokenizer, or pass its ids."
            )
        # a caption that spells <s> is text: it must not begin or end anything
        tokenized = self.text_tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return tokenized["input_ids"]


def _whole(part: Part, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{part} takes a whole number; got {value!r}.") from error


class _Reader:
    """Reads one sequence from its first id to its last."""

    def __init__(self, layout: SequenceLayout, ids: np.ndarray):
        self.layout, self.vocab, self.ids = layout, layout.vocab, ids
        self.numbers, self.values = layout.vocab.find(ids)
        self.at, self.end = 0, ids.size
        if layout.vocab.has("special", "pad"):
            kept = np.flatnonzero(ids != layout.vocab.special("pad"))
            self.at, self.end = (int(kept[0]), int(kept[-1]) + 1) if kept.size else (0, 0)

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in self.layout.parts:
            if part.kind == "special":
                self.take(self.vocab.number("special", part.name), str(part))
            elif part.kind == "label":
                found[part.name] = self.label(part)
            elif part.kind == "text":
                found[part.name] = self.ids[self.run([self.vocab.number("text", "text")])]
                found[part.name] = found[part.name].astype(np.int64)
            else:
                found[part.name] = self.codes(part, found)
        if self.at < self.end:
            self.refuse(self.at, "the end of the sequence")
        return found

    def take(self, number: int, wanted: str) -> int:
        """The value at the next position, which must lie in this range."""
        if self.at >= self.end or self.numbers[self.at] != number:
            self.refuse(self.at, wanted)
        self.at += 1
        return int(self.values[self.at - 1])

    def run(self, numbers: Sequence[int]) -> slice:
        """The longest stretch of ids from here that lie in these ranges."""
        inside = np.isin(self.numbers[self.at : self.end], numbers)
        length = inside.size if inside.all() else int(inside.argmin())
        self.at += length
        return slice(self.at - length, self.at)

    def label(self, part: Part) -> int | None:
        if not part.stream and self.at < self.end and self.vocab.has("special", NULL):
            null = self.vocab.number("special", NULL)
            if self.numbers[self.at] == null:
                self.at += 1
                return None
        return self.take(self.vocab.number("label", part.name), str(part))

    def codes(self, part: Part, found: Mapping[str, Any]) -> CodeItem:
        plan, pattern = self.layout.plan(part), part.pattern
        num_codebooks = plan.size - 1
        start = self.at
        grid = known_grid(part, found)
        if grid is None:
            stretch = self.run(plan[plan >= 0])
            # ranges to levels: the place in the plan, and -1 for its last entry, the row end
            places = (self.numbers[stretch, None] == plan).argmax(1)
            levels = np.where(places == num_codebooks, -1, places)
            grid = pattern.find_grid(num_codebooks, levels)
            if grid is None:
                self.refuse_pattern(part, num_codebooks, levels, start)
        levels = pattern.levels(num_codebooks, grid)
        stop = start + levels.size
        wanted = plan[levels]
        wrong = self.numbers[start : min(stop, self.end)] != wanted[: max(self.end - start, 0)]
        if wrong.any() or stop > self.end:
            at = int(wrong.argmax()) if wrong.any() else self.end - start
            name = str(self.vocab.ranges[wanted[at]])
            self.refuse(start + at, f"{name}, step {at} of {part} with grid {list(grid)}")
        self.at = stop
        ids = pattern.invert(self.ids[start:stop].astype(np.int64), num_codebooks, grid)
        return self.vocab.decode_codes(part.name, ids)

    def refuse_pattern(
        self, part: Part, num_codebooks: int, levels: np.ndarray, start: int
    ) -> NoReturn:
        legal = levels.size
        while legal and not part.pattern.matching(num_codebooks, levels[:legal]):
            legal -= 1
        self.refuse(start + legal, f"the next step of {part} in the pattern {part.pattern.name!r}")

    def refuse(self, at: int, wanted: str) -> NoReturn:
        if at >= self.end:
            found = "the sequence ends"
        else:
            found = f"id {int(self.ids[at])} came: {self.vocab.describe(int(self.ids[at]))}"
        raise FormatError(
            f"position {at} of {self.ids.size} should hold {wanted}, but {found}. The template is "
            f"{self.layout.template!r}."
        )


def known_grid(part: Part, sizes: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The grid that the template or the size labels before the codes tell, or None."""
    if part.grid is not None or not part.sized:
        return part.grid
    return tuple(sizes[name] for name in part.sized)
