"""Work done ahead of whoever takes its results: a round trip to a file server takes long."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD_BYTES = 256 << 20  # held at once, before anybody asked for it


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    at_once: int,
    size: Callable[[Item], int] = lambda item: 0,
) -> Iterator[Result]:
    """`map`, in order, with up to `at_once` calls under way in threads.

    Args:
        function: what is called; an error of it is raised in its turn.
        items: of the calls.
        at_once: calls under way; 1 needs no thread.
        size: bytes that a result will hold.
    """
    if at_once == 1:
        yield from map(function, items)
        return
    waiting, held = deque(), 0
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for item in items:
                waiting.append((pool.submit(function, item), size(item)))
                held += size(item)
                while waiting and (len(waiting) > 2 * at_once or held > AHEAD_BYTES):
                    future, freed = waiting.popleft()
                    held -= freed
                    yield future.result()
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()
