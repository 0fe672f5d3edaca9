"""What every pattern can do: arrange codes [Q, *grid] into steps, and put them back exactly.

A pattern is one function, `order`: for every step the place in the flat codes (C order of
[Q, *grid]) that it holds, or a mark. Everything else follows from it. `free` patterns can be read
back without knowing the grid; the others need it from a label or from the template.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vqtok.errors import ConfigError, FormatError, ShapeError

ROW_END = -1  # a step that ends a row
HOLE = -2  # a step of one row of a multi-row pattern that holds no code

Grid = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Arranged:
    """Codes in the order of a pattern.

    Attributes:
        ids: [S], or [Q, S] for patterns with a row per level; the type of what was arranged.
        mask: bool, the same shape: True where a step holds a code, False at marks.
    """

    ids: np.ndarray | Tensor
    mask: np.ndarray | Tensor


@dataclass(frozen=True)
class Pattern(ABC):
    """An order of codes."""

    name: ClassVar[str]
    flat: ClassVar[bool] = True  # one row of steps: what a stock causal language model reads
    free: ClassVar[bool] = False  # the grid can be told from the sequence alone
    axes: ClassVar[int | None] = None  # of the grid; None: any number
    uses_row_end: ClassVar[bool] = False

    @abstractmethod
    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        """int64 [S] or [Q, S]: flat places in [Q, *grid], or marks."""

    def num_tokens(self, num_codebooks: int, grid: Grid) -> int:
        """Number of steps S that codes [num_codebooks, *grid] take."""
        return num_codebooks * math.prod(grid)

    def order(self, num_codebooks: int, grid: Sequence[int]) -> np.ndarray:
        """int64 [S] or [Q, S]: the place in the flat codes that each step holds, or a mark."""
        return _cached_order(self, num_codebooks, self.check(num_codebooks, grid))

    def steps(self, num_codebooks: int, grid: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Which (level, position) each step holds; at marks both are the mark."""
        order = self.order(num_codebooks, grid)
        positions = math.prod(grid)
        held = order >= 0
        return np.where(held, order // positions, order), np.where(held, order % positions, order)

    def levels(self, num_codebooks: int, grid: Sequence[int]) -> np.ndarray:
        """Which level each step holds, or a mark: `steps` without the positions."""
        return _cached_levels(self, num_codebooks, self.check(num_codebooks, grid))

    def check(self, num_codebooks: int, grid: Sequence[int]) -> Grid:
        """The grid as a tuple; refuses one that the pattern cannot arrange."""
        grid = tuple(int(n) for n in grid)
        if num_codebooks < 1 or not grid or min(grid) < 1:
            raise ShapeError(
                f"a pattern wants codes [Q, *grid] with no empty axis; got Q = {num_codebooks} "
                f"and grid {list(grid)}."
            )
        if self.axes is not None and len(grid) != self.axes:
            raise ShapeError(
                f"the pattern {self.name!r} arranges grids of {self.axes} axes; got {list(grid)}. "
                "Images take raster, raster_rows or column; sequences take frame, coarse_first or "
                "delay_flat."
            )
        return grid

    def apply(
        self,
        codes: np.ndarray | Tensor,
        row_end: int | None = None,
        hole: int | None = None,
    ) -> Arranged:
        """Arrange codes, or ids that already lie in a vocabulary.

        Args:
            codes: [Q, *grid], any integer dtype, numpy or torch.
            row_end: the id that stands at row ends; must be given if the pattern has any.
            hole: the id that stands in holes; must be given if there are any.
        """
        order = self.order(codes.shape[0], codes.shape[1:])
        fills = _fills(self.name, order, {ROW_END: ("row_end", row_end), HOLE: ("hole", hole)})
        if isinstance(codes, Tensor):
            arranged = self.apply(codes.cpu().numpy(), row_end, hole)
            parts = (torch.from_numpy(part).to(codes.device) for part in _parts(arranged))
            return Arranged(*parts)
        values = codes.reshape(-1)[np.maximum(order, 0)]
        for mark, fill in fills.items():
            values = np.where(order == mark, np.asarray(fill, values.dtype), values)
        return Arranged(values, order >= 0)

    def invert(
        self,
        ids: np.ndarray | Tensor,
        num_codebooks: int,
        grid: Sequence[int],
    ) -> np.ndarray | Tensor:
        """The codes [Q, *grid] that `apply` arranged; what stands at marks is not looked at.

        Raises:
            FormatError: another number of steps than this shape has.
        """
        order = self.order(num_codebooks, grid)
        if isinstance(ids, Tensor):
            codes = self.invert(ids.cpu().numpy(), num_codebooks, grid)
            return torch.from_numpy(codes).to(ids.device)
        if ids.shape != order.shape:
            raise FormatError(
                f"codes [{num_codebooks}, {', '.join(map(str, grid))}] take {list(order.shape)} "
                f"steps in the pattern {self.name!r}; got {list(ids.shape)}."
            )
        codes = np.empty(num_codebooks * math.prod(grid), ids.dtype)
        codes[order[order >= 0]] = ids[order >= 0]
        return codes.reshape(num_codebooks, *grid)

    def candidates(self, num_codebooks: int, levels: Sequence[int]) -> list[Grid]:
        """Grids among which are all next steps that a prefix allows; `free` patterns only.

        Args:
            num_codebooks: Q.
            levels: the level, or the mark, of every step so far.
        """
        raise ConfigError(
            f"the pattern {self.name!r} cannot be read without knowing the grid. Put "
            "{height}{width} or {length} before the codes, fix the grid, or take a pattern that "
            "shows it: raster_rows, frame, coarse_first, delay_flat."
        )

    def matching(self, num_codebooks: int, levels: Sequence[int]) -> list[Grid]:
        """The candidates whose steps begin with this prefix."""
        prefix = np.asarray(levels, np.int64)
        return [
            grid
            for grid in self.candidates(num_codebooks, levels)
            if np.array_equal(self.levels(num_codebooks, grid)[: prefix.size], prefix)
        ]

    def find_grid(self, num_codebooks: int, levels: Sequence[int]) -> Grid | None:
        """The grid of a whole sequence of levels, or None if it is none of this pattern."""
        found = [
            grid
            for grid in self.matching(num_codebooks, levels)
            if self.num_tokens(num_codebooks, grid) == len(levels)
        ]
        return found[0] if found else None

    def to_json(self) -> dict[str, Any]:
        """What `build_pattern` makes it from again."""
        return {"name": self.name} | {k: v for k, v in asdict(self).items() if v is not None}


@functools.lru_cache(maxsize=128)
def _cached_order(pattern: Pattern, num_codebooks: int, grid: Grid) -> np.ndarray:
    order = pattern._order(num_codebooks, grid)
    order.flags.writeable = False
    return order


@functools.lru_cache(maxsize=128)
def _cached_levels(pattern: Pattern, num_codebooks: int, grid: Grid) -> np.ndarray:
    levels, _ = pattern.steps(num_codebooks, grid)
    levels.flags.writeable = False
    return levels


def _parts(arranged: Arranged) -> tuple[np.ndarray, np.ndarray]:
    return arranged.ids, arranged.mask


def _fills(
    name: str, order: np.ndarray, given: dict[int, tuple[str, int | None]]
) -> dict[int, int]:
    """Ids of the marks that occur; an id that is missing, or has no use, is refused."""
    fills = {}
    for mark, (argument, value) in given.items():
        occurs = bool((order == mark).any())
        if occurs and value is None:
            raise ConfigError(f"the pattern {name!r} needs {argument}: the id of these steps.")
        if value is not None:
            fills[mark] = value
    return fills
