"""Frame after frame, all levels of a frame together: the flattened order of Orpheus and AudioLM."""

from dataclasses import dataclass

import numpy as np

from vqtok.layout.patterns.base import Grid
from vqtok.layout.patterns.sequential import SequentialPattern


@dataclass(frozen=True)
class Frame(SequentialPattern):
    """Levels 0 to Q - 1 of frame 0, then of frame 1, ..."""

    name = "frame"

    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        return np.arange(self.num_tokens(num_codebooks, grid)).reshape(num_codebooks, -1).T.ravel()
