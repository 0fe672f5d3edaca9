"""`vqtok tokenize`, `decode` and `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from vqtok.cli.console import (
    BatchSize,
    Column,
    Device,
    JsonFlag,
    NumCodebooks,
    Result,
    TokenizerName,
    load_tokenizer,
    reported,
)

# a folder with a few broken files is no failed run; one where nothing can be read is
MAX_BAD_FRAC = 0.9

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A folder of images, an image, parquet or arrow.")
]


@reported
def tokenize(
    source: Source,
    tokenizer: TokenizerName,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the codes, new or empty.")],
    unit_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Inputs per file, and what a crash can cost; default 8192."),
    ] = None,
    max_bad_frac: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Exit with code 1 if more of the inputs than this are bad."
        ),
    ] = MAX_BAD_FRAC,
    batch_size: BatchSize = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN[,COLUMN]", help="Carry a table's columns; repeatable."),
    ] = None,
    column: Column = None,
    num_codebooks: NumCodebooks = None,
    executor: Annotated[str, typer.Option(help="local: in this process.")] = "local",
    workers: Annotated[int, typer.Option(help="1 in this version.")] = 1,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that --out holds.")
    ] = False,
    as_json: JsonFlag = False,
) -> Result:
    """Tokenize a dataset into parquet files of codes.

    Every input becomes one row, in the order of the file names; an input that cannot be read
    becomes a row that says why. A run that was interrupted goes on with --resume.
    """
    from vqtok.data import tokenize_dataset
    from vqtok.data.executors import check_executor
    from vqtok.errors import InputError

    check_executor(executor, workers)
    report = tokenize_dataset(
        source,
        out,
        load_tokenizer(tokenizer, device),
        tokenizer_name=stored_name(tokenizer),
        unit_rows=unit_rows,
        batch_size=batch_size,
        keep=[name for names in keep or () for name in names.split(",")],
        column=column,
        num_codebooks=num_codebooks,
        resume=resume,
        progress=True,
    )
    failure = ""
    try:
        report.check_bad_frac(max_bad_frac)
    except InputError as error:
        failure = str(error)
    return Result(report.to_dict(), report.summary(), failure)


@reported
def decode(
    codes: Annotated[Path, typer.Argument(metavar="DIR", help="What `vqtok tokenize` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files, new or empty.")],
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", "-t", help="Default: the one that DIR names.")
    ] = None,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> Result:
    """Turn codes back into image files (PNG), named after the inputs."""
    from vqtok.data import decode_dataset, stored_tokenizer

    name = tokenizer or stored_tokenizer(codes)
    report = decode_dataset(codes, out, load_tokenizer(name, device), progress=True)
    return Result(report.to_dict(), report.summary())


@reported
def evaluate(
    tokenizer: TokenizerName,
    data: Annotated[str, typer.Option(metavar="SOURCE", help="As for tokenize.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Centre square, resized (bicubic) to this side; default: as is."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the report here, as JSON.")
    ] = None,
    batch_size: BatchSize = None,
    num_codebooks: NumCodebooks = None,
    column: Column = None,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> Result:
    """Measure rate, distortion and codebook health of a tokenizer on images."""
    import json

    from vqtok.cli.tables import evaluation_table
    from vqtok.data import evaluate_dataset

    report = evaluate_dataset(
        load_tokenizer(tokenizer, device),
        data,
        size=size,
        batch_size=batch_size,
        num_codebooks=num_codebooks,
        column=column,
        progress=True,
    )
    values = {"tokenizer": tokenizer, "data": data} | report.to_dict()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return Result(values, evaluation_table(values))


def stored_name(tokenizer: str) -> str:
    """What a run writes down: a folder by its full path, so that it is found from anywhere."""
    return str(Path(tokenizer).resolve()) if Path(tokenizer).is_dir() else tokenizer
