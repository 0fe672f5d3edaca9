"""Raw samples to items that a tokenizer takes, in threads, with a time limit for each.

    samples ──▶ decode (the tokenizer's `prepare`) ──▶ (sample, item or error), in order

The libraries that decode pictures and sounds let go of Python's lock, so threads are enough. One
that never ends cannot be ended from outside: its sample becomes a row that says so, its thread is
left behind, and another one takes its place.
"""

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vqtok.data.modalities import item_of
from vqtok.data.sources import RawSample
from vqtok.errors import InputError, VqtokError

logger = logging.getLogger(__name__)

ITEM_SECONDS = 60.0  # that decoding one input may take
# raw bytes of the inputs that are being decoded, and while an accelerator encodes others; decoded
# ones may be a hundred times as large
WINDOW_BYTES, WINDOW_BYTES_AHEAD = 4 << 20, 32 << 20
POLL_SECONDS = 0.05

# what a library may raise on an input that nobody foresaw; the input's row then says "crash"
CRASHES = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError, OSError)

Decoded = tuple[RawSample, Any]


@dataclass(frozen=True)
class Decoding:
    """How inputs are decoded; it changes no row, but for one that takes too long.

    Attributes:
        threads: that decode.
        ahead: go on decoding while the encoder is busy. Good where it does not run on the cores
            that decode; where it does, both would only disturb each other.
        seconds: that one input may take.
    """

    threads: int = 1
    ahead: bool = False
    seconds: float = ITEM_SECONDS


class Pending:
    """One sample on its way through a thread."""

    def __init__(self, sample: RawSample):
        self.sample = sample
        self.started: float | None = None  # time.monotonic, set by the thread
        self.outcome: Any = None
        self.is_left_behind = False
        self.is_done = threading.Lock()
        self.is_done.acquire()


class Decoder:
    """Decodes samples in order.

    Args:
        prepare: raw item to what the tokenizer's `tokenize` takes; raises InputError.
        modality: of the inputs.
        decoding: how.
        window: samples in the threads at a time.
    """

    def __init__(
        self, prepare: Callable[[Any], Any], modality: str, decoding: Decoding, window: int
    ):
        self.prepare, self.modality = prepare, modality
        self.decoding, self.window = decoding, window
        self.left_behind = 0
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._running = 0

    def __call__(
        self, samples: Iterable[RawSample], window: int | None = None
    ) -> Iterator[Decoded]:
        """Every sample with its item, or with the exception that says why there is none.

        Args:
            samples: read as their turn comes.
            window: samples in the threads at a time, where it must be fewer.
        """
        while self._running < self.decoding.threads:
            self._start()
        samples, pending = iter(samples), deque()
        try:
            while True:
                if self.decoding.ahead or not pending:
                    for sample in self._taken(samples, pending, window or self.window):
                        pending.append(Pending(sample))
                        self._queue.put(pending[-1])
                if not pending:
                    return
                first = pending.popleft()
                yield first.sample, self._wait(first)
        finally:
            self.close()

    def close(self) -> None:
        """Let the threads end; those of the next call are new ones."""
        for _ in range(self._running):
            self._queue.put(None)
        self._running = 0

    def _taken(
        self, samples: Iterator[RawSample], pending: deque[Pending], window: int
    ) -> Iterator[RawSample]:
        """The next samples, as many as there is room for; always one if nothing is pending."""
        held = sum(raw_bytes(waiting.sample) for waiting in pending)
        most = WINDOW_BYTES_AHEAD if self.decoding.ahead else WINDOW_BYTES
        if held > most:
            return
        for sample in itertools.islice(samples, window - len(pending)):
            held += raw_bytes(sample)
            yield sample
            if held > most:
                return

    def _wait(self, pending: Pending) -> Any:
        seconds = self.decoding.seconds
        while not pending.is_done.acquire(timeout=POLL_SECONDS):
            started = pending.started
            if started is not None and time.monotonic() - started > seconds:
                return self._leave_behind(pending)
        if pending.outcome is None:
            raise VqtokError(f"the thread that decoded {pending.sample.src} ended; see above why.")
        return pending.outcome

    def _leave_behind(self, pending: Pending) -> InputError:
        seconds = self.decoding.seconds
        pending.is_left_behind = True
        self.left_behind += 1
        logger.warning(
            "decoding %s (row %d) has not ended within %g seconds and is left behind; %d so far",
            *(pending.sample.src, pending.sample.src_row, seconds, self.left_behind),
        )
        self._running -= 1
        self._start()
        return InputError(f"decoding took longer than {seconds:g} seconds", "timeout")

    def _start(self) -> None:
        self._running += 1
        threading.Thread(target=self._work, name="vqtok-decode", daemon=True).start()

    def _work(self) -> None:
        while (pending := self._queue.get()) is not None:
            pending.started = time.monotonic()
            try:
                pending.outcome = self.prepare(item_of(pending.sample, self.modality))
            except (VqtokError, *CRASHES) as error:
                pending.outcome = error
            finally:
                pending.is_done.release()
            if pending.is_left_behind:
                return  # another thread has its place


def raw_bytes(sample: RawSample) -> int:
    return len(sample.data) if isinstance(sample.data, (bytes, str)) else 0
