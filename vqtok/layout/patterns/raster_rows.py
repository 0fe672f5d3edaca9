"""Raster with a token after every row, which shows the grid: Emu3, Lumina-mGPT."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vqtok.layout.patterns.base import ROW_END, Grid, Pattern


@dataclass(frozen=True)
class RasterRows(Pattern):
    """Like raster, with a row end after every row, the last one included."""

    name = "raster_rows"
    axes = 2
    free = True
    uses_row_end = True

    def num_tokens(self, num_codebooks: int, grid: Grid) -> int:
        return grid[0] * (grid[1] * num_codebooks + 1)

    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        height, width = grid
        places = np.arange(num_codebooks * height * width).reshape(num_codebooks, height, width)
        rows = places.transpose(1, 2, 0).reshape(height, -1)
        return np.concatenate([rows, np.full((height, 1), ROW_END)], axis=1).ravel()

    def candidates(self, num_codebooks: int, levels: Sequence[int]) -> list[Grid]:
        ends = np.flatnonzero(np.asarray(levels) == ROW_END)
        width, height = (ends[0] if ends.size else len(levels)) // num_codebooks, ends.size
        if not ends.size:
            return [(1, max(width, 1)), (1, width + 1)][width == 0 :]
        return [(height, width), (height + 1, width)] if width else []
