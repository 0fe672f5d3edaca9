"""Row after row, left to right, all levels of a position together: LlamaGen, Show-o."""

from dataclasses import dataclass

import numpy as np

from vqtok.layout.patterns.base import Grid, Pattern


@dataclass(frozen=True)
class Raster(Pattern):
    """(0, 0), (0, 1), ... of a grid [h, w]; the levels of a position stand side by side."""

    name = "raster"
    axes = 2

    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        return np.arange(self.num_tokens(num_codebooks, grid)).reshape(num_codebooks, -1).T.ravel()
