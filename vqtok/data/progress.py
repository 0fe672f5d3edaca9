"""A progress bar on stderr: rows, rows/s, tokens/s, times real time, bad share, time left."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm


class Bar:
    """Called with rows; told of finished units.

    Args:
        bar: of tqdm.
        tokens_per_second: of sound, to tell how many times faster than real time; or None.
    """

    def __init__(self, bar: tqdm, tokens_per_second: float | None = None):
        self.bar = bar
        self.tokens_per_second = tokens_per_second
        self.rows = self.bad = self.tokens = 0
        self.started = time.monotonic()

    def __call__(self, rows: int) -> None:
        self.bar.update(rows)

    def unit(self, commit: dict) -> None:
        """A unit was published in this run."""
        self.rows += commit["rows"]
        self.bad += commit["bad"]
        self.tokens += commit["tokens"]
        self.bar.set_postfix_str(self.text(), refresh=False)

    def text(self) -> str:
        """What stands behind the bar."""
        per_second = self.tokens / max(time.monotonic() - self.started, 1e-9)
        parts = [f"{per_second:,.0f} tokens/s"]
        if self.tokens_per_second:
            parts.append(f"{per_second / self.tokens_per_second:,.1f}x real time")
        parts.append(f"{self.bad / max(self.rows, 1):.1%} bad")
        return ", ".join(parts)


@contextlib.contextmanager
def units_bar(total: int, shown: bool, tokens_per_second: float | None) -> Iterator[Bar]:
    """The bar of a run."""
    with _bar(total, shown, "tokenize") as bar:
        yield Bar(bar, tokens_per_second)


@contextlib.contextmanager
def rows_bar(total: int, shown: bool, label: str) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of rows just done."""
    with _bar(total, shown, label) as bar:
        yield bar.update


def _bar(total: int, shown: bool, label: str) -> tqdm:
    return tqdm(
        total=total, desc=label, unit=" rows", file=sys.stderr, disable=not shown, mininterval=0.5
    )
