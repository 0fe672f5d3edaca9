"""Patterns of file names, as shells and webdataset write them: `data/*.parquet`, `{000..999}.tar`.

`*`, `?` and `[abc]` match within one folder, `**` matches folders too. Braces list alternatives,
`{a,b}`, or numbers with as many digits as they are written with, `{08..12}`; each of them must
exist, whereas a `*` takes what there is.
"""

import itertools
import math
import re

from vqtok.errors import ConfigError

MAX_NAMES = 100_000  # that braces may stand for
BRACES = re.compile(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}")
WILD = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Whether a name stands for several; of a URL over HTTP a "?" begins the query."""
    wild = re.search(r"\*", text) if text.startswith("http") else WILD.search(text)
    return wild is not None or BRACES.search(text) is not None


def is_wild(pattern: str) -> bool:
    return WILD.search(pattern) is not None


def split_root(pattern: str) -> tuple[str, str]:
    """The folder above the first part that is no plain name, and the rest of the pattern."""
    scheme, mark, path = pattern.rpartition("://")
    place = min(found.start() for found in (WILD.search(path), BRACES.search(path)) if found)
    root, slash, _ = path[:place].rpartition("/")
    return scheme + mark + (root or slash), path[len(root) + len(slash) :]


def expand_braces(pattern: str) -> list[str]:
    """Every pattern without braces that a pattern stands for.

    Raises:
        ConfigError: more than 100,000 of them, or numbers that run backwards.
    """
    pieces = BRACES.split(pattern)  # text, braces, text, braces, ..., text
    counts = [count_of(piece) for piece in pieces[1::2]]
    if math.prod(counts) > MAX_NAMES:
        raise ConfigError(
            f"the braces of {pattern!r} stand for {math.prod(counts)} names; at most {MAX_NAMES} "
            "are allowed. Use a * instead."
        )
    choices = [alternatives(piece) if index % 2 else [piece] for index, piece in enumerate(pieces)]
    return ["".join(parts) for parts in itertools.product(*choices)]


def count_of(braces: str) -> int:
    """How many alternatives there are between braces."""
    first, dots, last = braces.partition("..")
    if not (dots and first.isdigit() and last.isdigit()):
        return braces.count(",") + 1
    if int(first) > int(last):
        raise ConfigError(f"{{{braces}}} should run from the smaller number to the larger one.")
    return int(last) - int(first) + 1


def alternatives(braces: str) -> list[str]:
    """What stands between braces, one by one."""
    first, dots, last = braces.partition("..")
    if not (dots and first.isdigit() and last.isdigit()):
        return braces.split(",")
    digits = len(first) if first.startswith("0") or len(first) == len(last) else 0
    return [f"{number:0{digits}d}" for number in range(int(first), int(last) + 1)]
