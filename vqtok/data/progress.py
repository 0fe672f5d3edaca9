"""How far, how fast, how long: a bar on a terminal, plain lines in a log file, or JSON lines.

All of it goes to stderr. Rows are counted as they are done; tokens and bad inputs are known of
published units, and tokens per second are rows per second times the tokens of a row so far.
"""

import contextlib
import json
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from vqtok.errors import ConfigError

STYLES = ("bar", "json", "none")
WINDOW_SECONDS = 60.0  # that speeds are measured over
BAR_SECONDS = 0.5
JSON_SECONDS = 10.0
# a log file wants few lines, but one soon
LINE_SECONDS, FIRST_LINE_SECONDS = 30.0, 5.0


class Progress(ABC):
    """Counts; a subclass shows it.

    Args:
        total: rows that there are.
        label: what is being done.
        tokens_per_second: of sound, to tell how many times faster than real time; or None.
        clock: seconds, from anywhere.
    """

    every = 0.0  # seconds between two shows
    first = 0.0  # seconds until the first

    def __init__(
        self,
        total: int,
        label: str,
        tokens_per_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.label, self.tokens_per_second = total, label, tokens_per_second
        self.clock = clock
        self.done = self.worked = 0
        self.unit_rows = self.bad = self.tokens = 0
        self.started = self._sampled = clock()
        self._next = self.started + self.first
        self._samples = deque([(self.started, 0)])

    def __call__(self, rows: int) -> None:
        """So many rows more; less than 0 when work was lost."""
        self.done += rows
        self.worked += rows
        now = self.clock()
        if now - self._sampled >= min(1.0, WINDOW_SECONDS / 10):
            self._sampled = now
            self._samples.append((now, self.worked))
            while now - self._samples[1][0] > WINDOW_SECONDS:
                self._samples.popleft()
        if now >= self._next:
            self._next = now + self.every
            self.show(self.figures())

    def adopted(self, rows: int) -> None:
        """Rows that an earlier run has done: they say nothing about speed."""
        self.done += rows

    def unit(self, commit: dict) -> None:
        """A unit was made."""
        self.unit_rows += commit["rows"]
        self.bad += commit["bad"]
        self.tokens += commit["tokens"]

    def figures(self) -> dict[str, Any]:
        """Numbers as of now; None where they are not known yet."""
        now = self.clock()
        since, before = self._samples[0]
        speed = max(self.worked - before, 0) / (now - since) if now > since else 0.0
        tokens = speed * self.tokens / self.unit_rows if self.unit_rows else None
        known = tokens is not None and self.tokens_per_second
        left = max(self.total - self.done, 0)
        return {
            "rows": self.done,
            "total": self.total,
            "rows_per_second": round(speed, 3),
            "tokens_per_second": None if tokens is None else round(tokens, 1),
            "times_real_time": round(tokens / self.tokens_per_second, 2) if known else None,
            "bad_frac": round(self.bad / self.unit_rows, 6) if self.unit_rows else None,
            "seconds": round(now - self.started, 1),
            "eta_seconds": round(left / speed, 1) if speed else (None if left else 0.0),
        }

    @abstractmethod
    def show(self, figures: dict[str, Any]) -> None:
        """Tell about it."""

    def close(self) -> None:
        """The last word."""
        self.show(self.figures())


class Silent(Progress):
    """Nothing is shown."""

    every = first = float("inf")

    def show(self, figures: dict[str, Any]) -> None:
        pass


class TerminalBar(Progress):
    """A line that is drawn again and again."""

    every = BAR_SECONDS

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.bar = tqdm(
            total=self.total,
            desc=self.label,
            file=sys.stderr,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} rows [{elapsed}{postfix}]",
        )

    def show(self, figures: dict[str, Any]) -> None:
        self.bar.n = self.done
        self.bar.set_postfix_str(speeds(figures), refresh=True)

    def close(self) -> None:
        super().close()
        self.bar.close()


class Lines(Progress):
    """Whole lines without control characters, for log files."""

    every, first = LINE_SECONDS, FIRST_LINE_SECONDS

    def show(self, figures: dict[str, Any]) -> None:
        share = figures["rows"] / max(figures["total"], 1)
        text = f"{self.label}: {figures['rows']:,} of {figures['total']:,} rows ({share:.1%})"
        sys.stderr.write(f"{text}, {speeds(figures)}\n")
        sys.stderr.flush()


class JsonLines(Progress):
    """One JSON object a line, for programs."""

    every = JSON_SECONDS

    def show(self, figures: dict[str, Any]) -> None:
        sys.stderr.write(json.dumps({"event": "progress", "label": self.label} | figures) + "\n")
        sys.stderr.flush()


def speeds(figures: dict[str, Any]) -> str:
    """Rows, tokens and real time a second, bad share and time left, as far as they are known."""
    parts = [f"{figures['rows_per_second']:,.4g} rows/s"]
    if figures["tokens_per_second"] is not None:
        parts.append(f"{figures['tokens_per_second']:,.0f} tokens/s")
    if figures["times_real_time"] is not None:
        parts.append(f"{figures['times_real_time']:,.1f}x real time")
    if figures["bad_frac"] is not None:
        parts.append(f"{figures['bad_frac']:.1%} bad")
    if figures["eta_seconds"]:
        parts.append(f"{tqdm.format_interval(figures['eta_seconds'])} left")
    return ", ".join(parts)


def chosen_style(progress: bool | str) -> type[Progress]:
    """What shows a progress of "bar" (True), "json" or "none" (False).

    Raises:
        ConfigError: another word.
    """
    style = {True: "bar", False: "none"}.get(progress, progress)
    if style not in STYLES:
        raise ConfigError(f"progress must be one of {STYLES}; got {progress!r}.")
    if style == "bar":
        return TerminalBar if sys.stderr.isatty() else Lines
    return JsonLines if style == "json" else Silent


@contextlib.contextmanager
def progress_of(
    total: int, progress: bool | str, label: str, tokens_per_second: float | None = None
) -> Iterator[Progress]:
    """Something to call with the number of rows just done.

    Args:
        total: rows that there are.
        progress: "bar" or True, "json", "none" or False.
        label: what is being done.
        tokens_per_second: of sound.
    """
    shown = chosen_style(progress)(total, label, tokens_per_second)
    try:
        yield shown
    finally:
        shown.close()
