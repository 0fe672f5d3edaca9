"""Walks along a sequence id by id and says which ids may come next.

What `SequenceLayout.decode` accepts is exactly what can be reached by legal steps. With a budget,
a step is legal only if the sequence can still be finished within it: sizes that would not fit are
left out, and text, rows and frames end in time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vqtok.errors import ConfigError, FormatError
from vqtok.layout.patterns import ROW_END
from vqtok.layout.sequence import NULL, SequenceLayout, known_grid
from vqtok.layout.template import Part


@dataclass(frozen=True)
class Choice:
    """Ids that may come next: offsets 0 to `count` - 1 of a range (all of them if None)."""

    number: int
    count: int | None = None


@dataclass
class Walker:
    """The state of one sequence.

    Attributes:
        layout: the template that it follows.
        part: index of the part that comes next or goes on; the number of parts when all are done.
        sizes: values of the size labels so far.
        steps: levels and marks of the codes part so far.
        taken: ids so far, padding not counted.
    """

    layout: SequenceLayout
    part: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    taken: int = 0

    @property
    def done(self) -> bool:
        return self.part == len(self.layout.parts)

    def copy(self) -> "Walker":
        return Walker(self.layout, self.part, dict(self.sizes), list(self.steps), self.taken)

    def choices(self, budget: int | None = None) -> list[Choice]:
        """What may come next.

        Args:
            budget: how many ids may still come, the next one included; None: any number.

        Raises:
            ConfigError: the sequence cannot be finished within the budget.
        """
        if self.done:
            return [Choice(self._filler())]
        found = list(self._at(self.part, self.steps, budget))
        if not found:
            least = max(1, self._rest(self.part) - len(self.steps))
            raise ConfigError(
                f"a sequence of {self.layout.template!r} needs at least {least} more ids here, "
                f"but only {budget} fit. Raise max_length."
            )
        return list(dict.fromkeys(found))

    def push(self, token: int) -> None:
        """Take one id.

        Raises:
            FormatError: it may not come here.
        """
        vocab = self.layout.vocab
        numbers, values = vocab.find(np.asarray([token]))
        number, value = int(numbers[0]), int(values[0])
        if self.done or (not self.taken and self._is_pad(number)):
            if self._is_pad(number):
                return
            self._refuse(token, "the end of the sequence")
        if number not in {choice.number for choice in self.choices()}:
            wanted = " or ".join(str(vocab.ranges[c.number]) for c in self.choices())
            self._refuse(token, wanted)
        while not self._belongs(self.layout.parts[self.part], number):
            self._next()  # an open part ends where an id of the next part comes
        self._advance(self.layout.parts[self.part], number, value)
        self.taken += 1

    def _advance(self, part: Part, number: int, value: int) -> None:
        if part.kind == "text":
            return
        if part.kind != "codes":
            if part.stream:
                self.sizes[part.name] = value
            self._next()
            return
        plan = self.layout.plan(part)
        level = int(np.flatnonzero(plan == number)[0])
        self.steps.append(ROW_END if level == plan.size - 1 else level)
        grid = known_grid(part, self.sizes)
        if grid and len(self.steps) == part.pattern.num_tokens(plan.size - 1, grid):
            self._next()

    def _next(self) -> None:
        self.part, self.steps = self.part + 1, []

    def _at(self, index: int, steps: Sequence[int], budget: int | None):
        """Choices at a part after some of its steps; those of the next part where it may end."""
        if index == len(self.layout.parts):
            return
        part, vocab = self.layout.parts[index], self.layout.vocab
        if part.kind == "codes":
            yield from self._codes(index, steps, budget)
            return
        if part.kind == "label" and part.stream:
            number = vocab.number("label", part.name)
            count = self._sizes_that_fit(index, budget)
            if count:
                yield Choice(number, count)
            return
        cost = 1 + self._rest(index + 1)
        if _fits(cost, budget):
            yield Choice(vocab.number(part.kind, part.name))
            if part.kind == "label" and vocab.has("special", NULL):
                yield Choice(vocab.number("special", NULL))
        if part.kind == "text":
            yield from self._at(index + 1, (), budget)

    def _codes(self, index: int, steps: Sequence[int], budget: int | None):
        part, layout = self.layout.parts[index], self.layout
        plan = layout.plan(part)
        num_codebooks, after = plan.size - 1, self._rest(index + 1)
        grid = known_grid(part, self.sizes)
        grids = [grid] if grid else part.pattern.matching(num_codebooks, steps)
        for candidate in grids:
            left = part.pattern.num_tokens(num_codebooks, candidate) - len(steps)
            if left and _fits(left + after, budget):
                level = part.pattern.levels(num_codebooks, candidate)[len(steps)]
                yield Choice(int(plan[level]))
            elif not left:
                yield from self._at(index + 1, (), budget)

    def _sizes_that_fit(self, index: int, budget: int | None) -> int:
        """How many of the values of a size label, which start at the smallest, still fit."""
        part = self.layout.parts[index]
        size = self.layout.vocab.range_of("label", part.name).size
        low, high = 0, size  # the cost grows with the size
        while low < high:
            middle = (low + high + 1) // 2
            sizes = self.sizes | {part.name: middle}
            fits = _fits(1 + self._rest(index + 1, sizes), budget)
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _rest(self, index: int, sizes: dict[str, int] | None = None) -> int:
        """The fewest ids that the parts from `index` on take."""
        sizes = self.sizes if sizes is None else sizes
        total = 0
        for part in self.layout.parts[index:]:
            if part.kind == "codes":
                grid = part.grid or tuple(sizes.get(name, 1) for name in part.sized)
                grid = grid or ((1, 1) if part.pattern.axes == 2 else (1,))
                num_codebooks = self.layout.plan(part).size - 1
                total += part.pattern.num_tokens(num_codebooks, grid)
            elif part.kind != "text":
                total += 1
        return total

    def _belongs(self, part: Part, number: int) -> bool:
        vocab = self.layout.vocab
        if part.kind == "codes":
            return number in self.layout.plan(part)
        null = part.kind == "label" and vocab.has("special", NULL)
        return number == vocab.number(part.kind, part.name) or (
            null and number == vocab.number("special", NULL)
        )

    def _is_pad(self, number: int) -> bool:
        return self.layout.vocab.has("special", "pad") and number == self._filler()

    def _filler(self) -> int:
        """What follows a finished sequence."""
        return self.layout.vocab.number("special", "pad")

    def _refuse(self, token: int, wanted: str) -> None:
        raise FormatError(
            f"position {self.taken} should hold {wanted}, but id {token} came: "
            f"{self.layout.vocab.describe(token)}."
        )


def _fits(cost: int, budget: int | None) -> bool:
    return budget is None or cost <= budget
