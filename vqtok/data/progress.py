"""A progress bar on stderr, in rows."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def rows_bar(total: int, shown: bool, label: str = "tokenize") -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of rows just done."""
    with tqdm(
        total=total, desc=label, unit=" rows", file=sys.stderr, disable=not shown, mininterval=0.5
    ) as bar:
        yield bar.update
