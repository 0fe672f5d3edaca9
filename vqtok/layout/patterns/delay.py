"""The delay pattern: level q is shifted q steps to the right; one row of steps per level.

Source: Copet et al. 2023 (MusicGen), arXiv 2306.05284, section 2.2. A prior of this kind has Q
output heads; a stock LlamaForCausalLM has one and reads delay_flat.
"""

import math
from dataclasses import dataclass

import numpy as np

from vqtok.errors import ConfigError
from vqtok.layout.patterns.base import HOLE, Grid, Pattern


def check_delays(delays: tuple[int, ...] | None) -> None:
    if delays is not None and (not delays or delays[0] != 0 or min(delays) < 0):
        raise ConfigError(
            f"delays are steps to the right, one a level, with 0 for level 0; got {list(delays)}."
        )


def delays_of(delays: tuple[int, ...] | None, num_codebooks: int) -> np.ndarray:
    """int64 [Q]; by default 0, 1, ..., Q - 1."""
    if delays is None:
        return np.arange(num_codebooks)
    if len(delays) != num_codebooks:
        raise ConfigError(f"{len(delays)} delays came for {num_codebooks} levels of codes.")
    return np.asarray(delays, np.int64)


@dataclass(frozen=True)
class Delay(Pattern):
    """[Q, T + max delay]; step s of row q holds frame s - delays[q], or a hole.

    Attributes:
        delays: steps per level; None is 0, 1, ..., Q - 1. Moshi has 0, 1, 1, ...; Dia 0, 8, 9, ...
    """

    name = "delay"
    flat = False
    delays: tuple[int, ...] | None = None

    def __post_init__(self):
        check_delays(self.delays)

    def num_tokens(self, num_codebooks: int, grid: Grid) -> int:
        return math.prod(grid) + int(delays_of(self.delays, num_codebooks).max())

    def _order(self, num_codebooks: int, grid: Grid) -> np.ndarray:
        frames = math.prod(grid)
        delays = delays_of(self.delays, num_codebooks)
        order = np.full((num_codebooks, frames + int(delays.max())), HOLE)
        for level, delay in enumerate(delays):
            order[level, delay : delay + frames] = level * frames + np.arange(frames)
        return order
