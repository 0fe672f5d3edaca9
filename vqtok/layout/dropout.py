"""Conditions that are left out now and then, while a prior trains: for guidance without a class.

Nothing is baked into files: what is left out is decided when a sequence is loaded, anew in every
epoch, and the same again for one seed. A label becomes <null>; text is cut out, as an empty prompt
would be. Source: Ho and Salimans 2022, arXiv 2207.12598 (10 to 20 % of the sequences).

drop = ConditionDropout(layout, ["class", "text"], share=0.1, seed=0)
ids, labels = drop(row.ids, index, epoch, row.labels)
"""

from collections.abc import Sequence

import numpy as np

from vqtok.errors import ConfigError
from vqtok.layout.sequence import NULL, SequenceLayout


class ConditionDropout:
    """Leaves all conditions of a sequence out together, by a coin that the seed decides.

    Args:
        layout: the template.
        names: labels and "text"; sizes and codes cannot be left out.
        share: of the sequences, 0 to 1.
        seed: of the coins.
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
        vocab = layout.vocab
        labels = [name for name in names if known[name].kind == "label"]
        # an id has one meaning wherever it stands: no position needs to be known
        self._labels = [vocab.number("label", name) for name in labels]
        self._null = vocab.special(NULL) if labels else 0
        self._text = vocab.number("text", "text") if "text" in names else len(vocab.ranges)
        self.layout, self.share, self.seed = layout, share, seed

    def falls(self, index: int, epoch: int = 0) -> bool:
        """Whether the conditions of sequence `index` are left out in this epoch."""
        return bool(np.random.default_rng([self.seed, epoch, index]).random() < self.share)

    def __call__(
        self, ids: np.ndarray, index: int, epoch: int = 0, labels: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A sequence and its labels, with its conditions or without.

        Args:
            ids: [S], one sequence that is not packed yet: text that goes makes it shorter.
            index: of the sequence in its dataset.
            epoch: counts up.
            labels: [S], -100 where nothing is to be learned; a label that is learned becomes
                <null> here too.

        Returns:
            New arrays of the same dtypes, or the same ones if nothing is left out.
        """
        if not self.falls(index, epoch):
            return ids, labels
        numbers, _ = self.layout.vocab.find(ids)
        nulled, kept = np.isin(numbers, self._labels), numbers != self._text
        ids = np.where(nulled, np.asarray(self._null, ids.dtype), ids)[kept]
        if labels is not None:
            learned = nulled & (labels >= 0)
            labels = np.where(learned, np.asarray(self._null, labels.dtype), labels)[kept]
        return ids, labels
