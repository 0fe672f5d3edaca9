"""What every command shares: results on stdout, everything else on stderr, exit codes.

Exit code 0: done. 1: failed; a deliberate error is one line on stderr, and with --json also one
line {"error": ...} on stdout. 2: wrong usage, from typer itself.
"""

import contextlib
import functools
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from tqdm import tqdm

from vqtok.errors import VqtokError

JsonFlag = Annotated[bool, typer.Option("--json", help="One machine-readable line on stdout.")]
TokenizerName = Annotated[
    str, typer.Option("--tokenizer", "-t", help="A folder, a bundled name, or a Hub id.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, xla, ...")]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Inputs of one size per forward; default: what pays."),
]
NumCodebooks = Annotated[
    int | None,
    typer.Option("--num-codebooks", min=1, help="Only the first so many codebooks; default: all."),
]
Progress = Annotated[
    str,
    typer.Option(
        "--progress", help="On stderr: bar (plain lines where that is no terminal), json or none."
    ),
]
Column = Annotated[
    str | None, typer.Option("--column", help="Column of a table with the inputs; default: found.")
]


@dataclass(frozen=True)
class Result:
    """What a command has to say.

    Attributes:
        values: for --json.
        text: for a person, on stdout.
        failure: if set, one line for stderr and exit code 1; the result is printed all the same.
        silent: not printed: another process of the same run does that.
    """

    values: dict[str, Any]
    text: str
    failure: str = ""
    silent: bool = False


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command that prints for itself: a deliberate error is one line and exit code 1."""

    @functools.wraps(command)
    def run(*args: Any, as_json: bool = False, **options: Any) -> None:
        log_to_stderr()
        try:
            command(*args, as_json=as_json, **options)
        except (VqtokError, OSError) as error:
            fail(error, as_json)

    return run


def reported(command: Callable[..., Result]) -> Callable[..., None]:
    """Wrap a command that returns its result: print that too."""

    @functools.wraps(command)
    def run(*args: Any, as_json: bool = False, **options: Any) -> None:
        # a library's greeting on stdout would be a second line of "JSON"
        with contextlib.redirect_stdout(sys.stderr):
            result = command(*args, **options)
        if not result.silent:
            typer.echo(json.dumps(result.values) if as_json else printable(result.text))
        if result.failure:
            typer.echo(f"error: {result.failure}", err=True)
            raise typer.Exit(1)

    return guarded(run)


def printable(text: str) -> str:
    """A text from outside (a file's name, a library's error) that cannot steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def fail(error: Exception, as_json: bool) -> None:
    """End the program with code 1 and one line that says why."""
    message = printable(" ".join(str(error).split()))
    if as_json:
        kind = type(error).__name__
        typer.echo(json.dumps({"error": {"type": kind, "message": message}}))
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1) from error


class _Stderr(logging.Handler):
    """Log lines that do not cut through a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_to_stderr() -> None:
    """Show what vqtok logs; calling it again changes nothing."""
    logger = logging.getLogger("vqtok")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def load_tokenizer(name: str, device: str = "auto") -> Any:
    """The tokenizer that a command names."""
    from vqtok.models.auto import AutoVQTokenizer

    return AutoVQTokenizer.from_pretrained(name, device=device)
