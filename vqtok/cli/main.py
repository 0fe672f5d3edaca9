"""The commands of `vqtok`. A command calls one public function and prints what it returns."""

import atexit
import gc

import typer

from vqtok.cli.datasets import decode, evaluate, tokenize
from vqtok.cli.info import info
from vqtok.cli.layout import export, layout
from vqtok.cli.runs import plan, report, status, verify
from vqtok.cli.train import train

app = typer.Typer(
    name="vqtok",
    help="Images, audio, text and embeddings to discrete codes and back.",
    no_args_is_help=True,
    add_completion=False,
    # a crash shows Python's own traceback, which bug reports need whole
    pretty_exceptions_enable=False,
)

# before it ends, Python looks through everything that torch and transformers have made, for a
# second; nothing there waits to be cleaned up
atexit.register(gc.freeze)

app.command()(tokenize)
app.command()(plan)
app.command()(status)
app.command()(verify)
app.command()(report)
app.command()(decode)
app.command()(evaluate)
app.command()(info)
app.command()(train)
app.command()(layout)
app.command()(export)
