"""A LogitsProcessor that lets only legal ids through, so that what a prior generates decodes.

out = prior.generate(prompt, do_sample=True, max_length=300,
                     logits_processor=[layout.logits_processor(max_length=300)])
parts = [layout.decode(row) for row in out]
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vqtok.errors import ConfigError, FormatError
from vqtok.layout.sequence import SequenceLayout
from vqtok.layout.walker import Choice, Walker


class LegalIds(LogitsProcessor):
    """Sets the scores of all ids that may not come next to minus infinity.

    Beam search keeps rows alive that have no legal id left to go to, with a score of minus
    infinity; such rows get <pad> from there on, and lose to every row that is legal.

    Rows of a batch may be in different states, and prompts may be padded on the left. A prompt
    that no sequence of the template begins with is refused with the row and the position.

    Args:
        layout: the template.
        max_length: what `generate` gets as max_length, prompt and padding included: every
            sequence is brought to its end by then. None: open parts may run out of room.
    """

    def __init__(self, layout: SequenceLayout, max_length: int | None = None):
        if not layout.vocab.has("special", "pad"):
            raise ConfigError(
                "generation fills finished sequences with <pad>: build the vocabulary with a "
                "special 'pad', and give `generate` its id as pad_token_id."
            )
        self.layout = layout
        self.max_length = max_length
        self._seen: list[list[int]] = []
        self._walkers: list[Walker | None] = []  # None: a beam that is dead
        self._after_death = [Choice(layout.vocab.number("special", "pad"))]
        self._ids: dict[int, Tensor] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] after the ids [B, L]; V is at least the vocabulary's size."""
        if scores.shape[-1] < self.layout.vocab.size:
            raise ConfigError(
                f"the prior gives scores of {scores.shape[-1]} ids; the vocabulary has "
                f"{self.layout.vocab.size}. Build the prior with **layout.vocab.config()."
            )
        rows = input_ids.tolist()
        walkers = [self._walker(index, row) for index, row in enumerate(rows)]
        self._seen, self._walkers = rows, walkers
        budget = None if self.max_length is None else self.max_length - input_ids.shape[1]
        legal = torch.zeros(scores.shape, dtype=torch.bool, device="cpu")
        for index, walker in enumerate(walkers):
            choices = self._after_death if walker is None else walker.choices(budget)
            for choice in choices:
                legal[index, self._ids_of(choice.number)[: choice.count]] = True
        legal = legal.to(scores.device)
        masked = scores.masked_fill(~legal, -torch.inf)
        # another processor may have ruled out all that is legal: then all of it is as good
        dead = masked.isneginf().all(-1, keepdim=True)
        return masked.masked_fill(dead & legal, 0.0)

    def _walker(self, index: int, row: list[int]) -> Walker | None:
        """The state after a row: one step from a state of the last call, or walked anew."""
        order = [index, *range(len(self._seen))]  # beam search changes the order of rows
        before = row[:-1]
        known = next((i for i in order if i < len(self._seen) and self._seen[i] == before), None)
        if known is None:
            return self._walked(index, row)
        if self._walkers[known] is None:
            return None
        walker = self._walkers[known].copy()
        try:
            walker.push(row[-1])
        except FormatError:
            return None  # only a beam takes an id whose score was minus infinity
        return walker

    def _walked(self, index: int, row: list[int]) -> Walker:
        walker = Walker(self.layout)
        for position, token in enumerate(row):
            try:
                walker.push(token)
            except FormatError as error:
                raise FormatError(f"row {index}, column {position}: {error}") from error
        return walker

    def _ids_of(self, number: int) -> Tensor:
        if number not in self._ids:
            table = torch.from_numpy(self.layout.vocab.ranges[number].table())
            self._ids[number] = table[table >= 0]
        return self._ids[number]
