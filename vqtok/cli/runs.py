"""`vqtok plan`, `status`, `verify` and `report`: before, during and after a run."""

from pathlib import Path
from typing import Annotated

import typer

from vqtok.cli.console import Column, JsonFlag, Progress, Result, reported

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `vqtok tokenize` wrote.")]


@reported
def plan(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="As for tokenize.")],
    modality: Annotated[
        str, typer.Option("--modality", "-m", help="image, audio, text or embedding.")
    ] = "image",
    unit_rows: Annotated[
        int | None, typer.Option(min=1, help="Inputs per file; default: as for tokenize.")
    ] = None,
    column: Column = None,
    as_json: JsonFlag = False,
) -> Result:
    """Say what tokenizing a source would come to; nothing is written."""
    from vqtok.data import plan_dataset

    report = plan_dataset(source, modality, unit_rows, column)
    return Result(report.to_dict(), report.summary())


@reported
def status(folder: Folder, as_json: JsonFlag = False) -> Result:
    """Say how far a run is."""
    from vqtok.data import run_status

    report = run_status(folder)
    return Result(report.to_dict(), report.summary())


@reported
def verify(folder: Folder, progress: Progress = "bar", as_json: JsonFlag = False) -> Result:
    """Read a finished run once more: every planned input once, in order, nothing changed.

    Exit code 1 unless all of it holds.
    """
    from vqtok.data import verify_run

    report = verify_run(folder, progress=progress)
    failure = f"{folder} is not what it should be" if report.problems else ""
    return Result(report.to_dict(), report.summary(), failure)


@reported
def report(
    folder: Folder,
    html: Annotated[
        Path | None, typer.Option(help="Also write one self-contained page here.")
    ] = None,
    as_json: JsonFlag = False,
) -> Result:
    """Say what a run took and gave: stages, codebooks, bytes per token, bad inputs."""
    from vqtok.cli.tables import run_table
    from vqtok.data import run_report

    found = run_report(folder)
    if html is not None:
        from vqtok.data.report_html import report_page

        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(report_page(found), encoding="utf-8")
    return Result(found.to_dict(), run_table(found.to_dict()))
