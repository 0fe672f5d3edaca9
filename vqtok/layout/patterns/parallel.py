"""All levels of a position in one step, a row per level: for priors with Q output heads."""

import math
from dataclasses import dataclass

import numpy as np

from vqtok.layout.patterns.base import Grid, Pattern


@dataclass(frozen=True)
class Parallel(Pattern):
    """[Q, T]: the codes as they are, the grid in C order."""

    name = "parallel"
    flat = False

    def num_tokens(self, num_codebooks: int, grid: Grid) -> int:
        return math.prod(grid)

    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        return np.arange(num_codebooks * math.prod(grid)).reshape(num_codebooks, -1)
