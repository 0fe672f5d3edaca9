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
# decoded bytes that wait to be taken; beyond them only the next one is decoded
HELD_BYTES = 256 << 20
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
        self.held = 0  # bytes, from its decoding until it is taken
        self.is_next = False  # somebody waits for it
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

    def __call__(
        self, samples: Iterable[RawSample], window: int | None = None
    ) -> Iterator[Decoded]:
        """Every sample with its item, or with the exception that says why there is none.

        Args:
            samples: read as their turn comes.
            window: samples in the threads at a time, where it must be fewer.
        """
        samples, pending = iter(samples), deque()
        with Threads(self) as threads:
            while True:
                if self.decoding.ahead or not pending:
                    for sample in self._taken(samples, pending, window or self.window):
                        pending.append(Pending(sample))
                        threads.queue.put(pending[-1])
                if not pending:
                    return
                first = pending.popleft()
                yield first.sample, threads.outcome(first)

    def _taken(
        self, samples: Iterator[RawSample], pending: deque[Pending], window: int
    ) -> Iterator[RawSample]:
        """The next samples, as many as there is room for; always one if nothing is pending."""
        raw = sum(raw_bytes(waiting.sample) for waiting in pending)
        most = WINDOW_BYTES_AHEAD if self.decoding.ahead else WINDOW_BYTES
        if raw > most:
            return
        for sample in itertools.islice(samples, window - len(pending)):
            raw += raw_bytes(sample)
            yield sample
            if raw > most:
                return


class Threads:
    """The threads of a decoder, for one sequence of samples; they end with it."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self.room = threading.Condition()
        self.held = 0  # bytes of decoded items that nobody has taken yet
        self.is_over = False

    def __enter__(self) -> "Threads":
        for _ in range(self.decoder.decoding.threads):
            self.start()
        return self

    def __exit__(self, *error) -> None:
        with self.room:
            self.is_over = True
            self.room.notify_all()
        for _ in range(self.decoder.decoding.threads):
            self.queue.put(None)

    def start(self) -> None:
        threading.Thread(target=self.work, name="vqtok-decode", daemon=True).start()

    def outcome(self, pending: Pending) -> Any:
        """Waits for an item; one that takes too long is an InputError."""
        seconds = self.decoder.decoding.seconds
        with self.room:
            pending.is_next = True
            self.room.notify_all()
        while not pending.is_done.acquire(timeout=POLL_SECONDS):
            started = pending.started
            if started is not None and time.monotonic() - started > seconds:
                return self.leave_behind(pending, seconds)
        if pending.outcome is None:
            raise VqtokError(f"the thread that decoded {pending.sample.src} ended; see above why.")
        self.take(pending)
        return pending.outcome

    def take(self, pending: Pending) -> None:
        with self.room:
            self.held -= pending.held
            self.room.notify_all()

    def leave_behind(self, pending: Pending, seconds: float) -> InputError:
        with self.room:
            pending.is_left_behind = True
        self.take(pending)
        self.start()
        self.decoder.left_behind += 1
        logger.warning(
            "decoding %s (row %d) has not ended within %g seconds and is left behind; %d so far",
            *(pending.sample.src, pending.sample.src_row, seconds, self.decoder.left_behind),
        )
        return InputError(f"decoding took longer than {seconds:g} seconds", "timeout")

    def work(self) -> None:
        """The life of a thread."""
        while (pending := self.queue.get()) is not None:
            with self.room:
                while not (self.held < HELD_BYTES or pending.is_next or self.is_over):
                    self.room.wait()
            if not self.is_over:
                self.decode(pending)
            if pending.is_left_behind:
                return  # another thread has its place

    def decode(self, pending: Pending) -> None:
        pending.started = time.monotonic()
        try:
            item = item_of(pending.sample, self.decoder.modality)
            pending.outcome = self.decoder.prepare(item)
        except (VqtokError, *CRASHES) as error:
            pending.outcome = error
        finally:
            with self.room:
                if not pending.is_left_behind:
                    pending.held = nbytes(pending.outcome)
                    self.held += pending.held
            pending.is_done.release()


def nbytes(item: Any) -> int:
    """Of a decoded item, as far as it says."""
    return getattr(item, "nbytes", 0)


def raw_bytes(sample: RawSample) -> int:
    return len(sample.data) if isinstance(sample.data, (bytes, str)) else 0
