"""What patterns of one-axis grids share: the number of frames shows in the level-0 steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vqtok.layout.patterns.base import Grid, Pattern


@dataclass(frozen=True)
class SequentialPattern(Pattern):
    """A pattern whose level 0 starts the sequence and stands nowhere twice for a frame.

    Other grids than [T] are read in C order, but only [T] can be told from the sequence.
    """

    free = True

    def candidates(self, num_codebooks: int, levels: Sequence[int]) -> list[Grid]:
        # one more level-0 step means one more frame; anything else means that there are no more
        frames = int((np.asarray(levels) == 0).sum())
        return [(frames,), (frames + 1,)][frames == 0 :]
