"""Conditions that are left out now and then, while a prior trains: for guidance without a class.

Nothing is baked into files: what is left out is decided when a sequence is loaded, anew in every
epoch, and the same again for one seed. A label becomes <null>; text is cut out, as an empty prompt
would be. Source: Ho and Salimans 2022, arXiv 2207.12598 (10 to 20 % of the sequences).

drop = ConditionDropout(layout, ["class", "text"], share=0.1, seed=0)
ids, labels = drop(row.ids, index, epoch, row.labels)
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from vqtok.errors import ConfigError, InputError, ShapeError
from vqtok.layout.sequence import NULL, SequenceLayout
from vqtok.layout.template import ROW_END_NAME
from vqtok.layout.vocabulary import as_array


class ConditionDropout:
    """Leaves all conditions of a sequence out together, by a coin that the seed decides.

    Args:
        layout: the template.
        names: labels and "text"; sizes and codes cannot be left out.
        share: of the sequences, 0 to 1.
        seed: of the coins; at least 0.
    """

    def __init__(
        self, layout: SequenceLayout, names: Sequence[str], share: float = 0.1, seed: int = 0
    ):
        known = {part.name: part for part in layout.parts if part.kind in ("label", "text")}
        able = [name for name, part in known.items() if not part.stream]
        if not names or not set(names) <= set(able):
            raise ConfigError(f"of {layout.template!r} {able} may be left out; got {list(names)}.")
        if not 0 <= share <= 1:
            raise ConfigError(f"share is a part of the sequences, 0 to 1; got {share}.")
        _refuse_negative({"seed": seed})
        vocab = layout.vocab
        labels = [name for name in names if known[name].kind == "label"]
        # an id has one meaning wherever it stands: no position needs to be known
        self._labels = [vocab.number("label", name) for name in labels]
        self._null = vocab.special(NULL) if labels else 0
        self._text = vocab.number("text", "text") if "text" in names else len(vocab.ranges)
        self._fixed = _fixed_counts(layout)
        self.layout, self.share, self.seed = layout, share, seed

    def falls(self, index: int, epoch: int = 0) -> bool:
        """Whether the conditions of sequence `index` are left out in this epoch."""
        _refuse_negative({"index": index, "epoch": epoch})
        return bool(np.random.default_rng([self.seed, epoch, index]).random() < self.share)

    def __call__(
        self,
        ids: np.ndarray | Tensor | Sequence[int],
        index: int,
        epoch: int = 0,
        labels: np.ndarray | Tensor | Sequence[int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A sequence and its labels, with its conditions or without.

        Args:
            ids: [S], one whole sequence that is not packed yet: text that goes makes it shorter.
            index: of the sequence in its dataset.
            epoch: counts up.
            labels: [S], -100 where nothing is to be learned; a label that is learned becomes
                <null> here too.

        Returns:
            Numpy arrays of the same dtypes, of lists int64; those that came if nothing is left out.

        Raises:
            ShapeError: not one row of integers, or another number of labels.
            InputError: not one whole sequence of the template: a packed row, for example.
        """
        ids = as_array(ids)
        labels = None if labels is None else as_array(labels)
        if ids.ndim != 1 or (labels is not None and labels.shape != ids.shape):
            raise ShapeError(
                "conditions are left out of one sequence, ids [S] and labels [S]; got "
                f"{list(ids.shape)} and {None if labels is None else list(labels.shape)}."
            )
        numbers, _ = self.layout.vocab.find(ids)
        self._refuse_packed(numbers)
        if not self.falls(index, epoch):
            return ids, labels
        nulled, kept = np.isin(numbers, self._labels), numbers != self._text
        ids = np.where(nulled, np.asarray(self._null, ids.dtype), ids)[kept]
        if labels is not None:
            learned = nulled & (labels >= 0)
            labels = np.where(learned, np.asarray(self._null, labels.dtype), labels)[kept]
        return ids, labels

    def _refuse_packed(self, numbers: np.ndarray) -> None:
        found = Counter(numbers.tolist())
        if any(sum(found[n] for n in group) != count for group, count in self._fixed.items()):
            raise InputError(
                f"conditions are left out of one whole sequence of {self.layout.template!r}; "
                "these ids hold several, or a part of one. Leave conditions out before packing."
            )


def _fixed_counts(layout: SequenceLayout) -> Counter[tuple[int, ...]]:
    """How often every sequence of a template holds ids of some ranges."""
    vocab = layout.vocab
    counts: Counter[tuple[int, ...]] = Counter()
    names = [part.name for part in layout.parts if part.kind == "label" and not part.stream]
    nullable = [vocab.number("label", name) for name in names]  # or <null> in their places
    nullable += [vocab.number("special", NULL)] if vocab.has("special", NULL) else []
    for part in layout.parts:
        if part.kind == "special" and part.name != ROW_END_NAME:
            own = (vocab.number("special", part.name),)
            counts[tuple(nullable) if part.name == NULL else own] += 1
        elif part.kind == "label":
            own = (vocab.number("label", part.name),)
            counts[own if part.stream else tuple(nullable)] += 1
    return counts


def _refuse_negative(numbers: Mapping[str, int]) -> None:
    wrong = {name: number for name, number in numbers.items() if number < 0}
    if wrong:
        raise ConfigError(f"seed, index and epoch are at least 0; got {wrong}.")
