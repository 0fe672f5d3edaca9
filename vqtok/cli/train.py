"""`vqtok train RECIPE.yaml [key=value ...]`: train a tokenizer, or go on where it stopped."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from vqtok.cli.console import JsonFlag, Result, reported


@reported
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML; see recipes/.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to it, as key=value with dots: training.lr=5e-4."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output folder.")
    ] = False,
    as_json: JsonFlag = False,
) -> Result:
    """Train a tokenizer from a recipe.

    SIGTERM or Ctrl-C saves a checkpoint after the current step and exits with code 1; the same
    command with --resume continues. A finished run is left as it is.
    """
    from vqtok.training.recipe import load_recipe

    plan = load_recipe(recipe, overrides or ())
    plan.resume = plan.resume or resume

    from vqtok.training.run import run_recipe

    result = run_recipe(plan)
    interrupted = result.status == "interrupted"
    return Result(
        values=dataclasses.asdict(result),
        text=_text(result),
        failure=f"interrupted at step {result.step}; --resume continues" if interrupted else "",
        silent=int(os.environ.get("RANK", "0")) != 0,
    )


def _text(result) -> str:
    lines = [f"{result.status} at step {result.step}: {result.output}"]
    for name, value in result.evaluation.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        lines.append(f"{name:>24} {shown}")
    return "\n".join(lines)
