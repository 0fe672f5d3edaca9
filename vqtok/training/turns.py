"""The order of a run that goes through its items again and again."""

import numpy as np

_ORDER_STREAM = 1  # keeps this use of a seed apart from others


class Turns:
    """Which item comes at place i: every item once a turn, each turn in an order of its own.

    A pure function of (seed, i), so that a run can go on in the middle of a turn.

    Args:
        items: how many there are.
    """

    def __init__(self, items: int, seed: int):
        self.items, self.seed = items, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __getitem__(self, place: int) -> int:
        turn, within = divmod(place, self.items)
        if self._order[0] != turn:
            rng = np.random.default_rng((self.seed, _ORDER_STREAM, turn))
            self._order = (turn, rng.permutation(self.items))
        return int(self._order[1][within])
