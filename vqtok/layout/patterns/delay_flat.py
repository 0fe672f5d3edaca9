"""The delay pattern in one row: step after step, in a step level after level, without holes.

Source: the order of Copet et al. 2023 (MusicGen), arXiv 2306.05284, flattened as in its section
2.2. Any causal language model with one head reads it.
"""

import math
from dataclasses import dataclass

import numpy as np

from vqtok.layout.patterns.base import Grid
from vqtok.layout.patterns.delay import check_delays, delays_of
from vqtok.layout.patterns.sequential import SequentialPattern


@dataclass(frozen=True)
class DelayFlat(SequentialPattern):
    """Codes in the order of (frame + delays[level], level).

    Attributes:
        delays: steps per level; None is 0, 1, ..., Q - 1.
    """

    name = "delay_flat"
    delays: tuple[int, ...] | None = None

    def __post_init__(self):
        check_delays(self.delays)

    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        frames = math.prod(grid)
        delays = delays_of(self.delays, num_codebooks)
        steps = np.arange(frames)[None] + delays[:, None]  # [Q, T]
        levels = np.broadcast_to(np.arange(num_codebooks)[:, None], steps.shape)
        return np.lexsort((levels.ravel(), steps.ravel()))
