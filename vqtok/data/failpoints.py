"""Places where a test can kill the process, to prove that a resumed run loses and repeats nothing.

`VQTOK_FAIL=after_link:7` ends the process, as `kill -9` would, when unit 7 reaches that point;
`VQTOK_FAIL=before_manifest` does so whatever the unit. Without the variable a point does nothing.
With `VQTOK_FAIL_ONCE=file` too, only the first process to get there ends: it makes the file.
"""

import os

from vqtok.errors import ConfigError

POINTS = (
    "after_run",
    "after_plan",
    "mid_encode",
    "before_write",
    "torn_write",
    "before_fsync",
    "after_fsync",
    "after_link",
    "before_commit",
    "after_commit",
    "before_manifest",
)
EXIT_CODE = 9


def failpoint(point: str, unit: int | None = None) -> None:
    """End the process at once if VQTOK_FAIL names this point (and this unit, if it names one)."""
    wanted = os.environ.get("VQTOK_FAIL")
    if not wanted:
        return
    name, _, number = wanted.partition(":")
    if name not in POINTS:
        raise ConfigError(f"VQTOK_FAIL names no failpoint: {wanted!r}; there are {list(POINTS)}.")
    if name == point and (not number or number == str(unit)):
        once = os.environ.get("VQTOK_FAIL_ONCE")
        if once:
            try:
                os.close(os.open(once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        # no cleanup and no flushing: this stands for a kill -9
        os._exit(EXIT_CODE)
