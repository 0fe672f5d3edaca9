"""All of level 0, then all of level 1, ...: the coarse picture or sound comes first."""

from dataclasses import dataclass

import numpy as np

from vqtok.layout.patterns.base import Grid
from vqtok.layout.patterns.sequential import SequentialPattern


@dataclass(frozen=True)
class CoarseFirst(SequentialPattern):
    """The codes in C order of [Q, *grid]."""

    name = "coarse_first"

    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        return np.arange(self.num_tokens(num_codebooks, grid))
