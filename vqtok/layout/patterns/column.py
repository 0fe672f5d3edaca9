"""Column after column, top to bottom, all levels of a position together."""

from dataclasses import dataclass

import numpy as np

from vqtok.layout.patterns.base import Grid, Pattern


@dataclass(frozen=True)
class Column(Pattern):
    """(0, 0), (1, 0), ... of a grid [h, w]."""

    name = "column"
    axes = 2

    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        places = np.arange(self.num_tokens(num_codebooks, grid)).reshape(num_codebooks, *grid)
        return places.transpose(2, 1, 0).ravel()
