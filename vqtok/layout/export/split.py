"""Which split a sequence goes to: decided for whole sequences, before any are packed into rows."""

import itertools
import math
from collections.abc import Iterator
from typing import TypeVar

from vqtok.errors import ConfigError
from vqtok.layout.export.base import TRAIN, VALIDATION

Item = TypeVar("Item")
LOOK_AHEAD = 4_096  # items that may wait until it is known whether any goes to validation


def split_items(
    items: Iterator[Item], val_fraction: float | None, default: float
) -> tuple[list[str], Iterator[tuple[str, Item]]]:
    """Every item with its split; `val_fraction` of the first n go to validation, whatever n.

    The share is rounded down. Of a format's own share, at least one item goes to validation, the
    last one of the few that there are.

    Args:
        items: sequences, in the order in which they are written.
        val_fraction: 0 to below 1; None: the format's own.
        default: the format's own.

    Returns:
        The splits, and the items with theirs.

    Raises:
        ConfigError: no such fraction, or no item goes to validation. Of up to 4,096 items that is
            found out here, of more while they are read.
    """
    share = default if val_fraction is None else val_fraction
    if not 0 <= share < 1:
        raise ConfigError(f"val_fraction must be at least 0 and below 1; got {share}.")
    if not share:
        return [TRAIN], ((TRAIN, item) for item in items)
    first = _first_of_validation(share)
    waiting = list(itertools.islice(items, min(first + 1, LOOK_AHEAD)))
    if len(waiting) <= first and len(waiting) < LOOK_AHEAD:  # these are all
        if val_fraction is not None or len(waiting) < 2:
            raise _none_for_validation(len(waiting), share)
        first = len(waiting) - 1
    return [TRAIN, VALIDATION], _placed(itertools.chain(waiting, items), share, first)


def _placed(items: Iterator[Item], share: float, first: int) -> Iterator[tuple[str, Item]]:
    count = 0
    for count, item in enumerate(items, 1):
        yield VALIDATION if count == first + 1 or _falls(count - 1, share) else TRAIN, item
    if count <= first:
        raise _none_for_validation(count, share)


def _falls(index: int, share: float) -> bool:
    return math.floor((index + 1) * share) > math.floor(index * share)


def _first_of_validation(share: float) -> int:
    guess = math.ceil(1 / share) - 1
    # 1 / share is rounded: the first one lies beside it at most
    return next(index for index in itertools.count(max(guess - 1, 0)) if _falls(index, share))


def _none_for_validation(count: int, share: float) -> ConfigError:
    return ConfigError(
        f"of {count} {'sequence' if count == 1 else 'sequences'} none fell into validation; raise "
        f"val_fraction (now {share}), or set it to 0."
    )
