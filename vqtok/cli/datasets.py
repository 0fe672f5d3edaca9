"""`vqtok tokenize`, `decode` and `evaluate`."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from vqtok.cli.console import (
    BatchSize,
    Column,
    Device,
    JsonFlag,
    NumCodebooks,
    Progress,
    Result,
    TokenizerName,
    load_tokenizer,
    reported,
)

# a folder with a few broken files is no failed run; one where nothing can be read is
MAX_BAD_FRAC = 0.9

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of images, sounds, .txt or .npy; a file; a table, tar, jsonl, pattern, URL.",
    ),
]


UnitRows = Annotated[
    int | None,
    typer.Option(min=1, help="Inputs per file, which a crash can cost; default: 64 to 8192."),
]
MaxBadFrac = Annotated[
    float,
    typer.Option(min=0, max=1, help="Exit with code 1 if more of the inputs than this are bad."),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN[,COLUMN]", help="Carry a table's columns; repeatable."),
]
ContentHash = Annotated[
    bool, typer.Option("--content-hash", help="Store 64 bits of a hash of every raw input.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that --out holds.")]
Numerics = Annotated[
    str | None,
    typer.Option(help="exact (default): float32. bf16: faster, and a few codes are other ones."),
]
MaxFlipRate = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="bf16: refuse if more of the codes differ; default 0.02."),
]
Executor = Annotated[
    str, typer.Option(help="local: this machine. shard: one task of many. ray: a cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes (local) or actors (ray), each with a tokenizer; default: one a core, or "
        "the whole cluster. 1: this process."
    ),
]
ItemTimeout = Annotated[
    float, typer.Option(help="Seconds for decoding one image or sound; then its row says so.")
]
DecodeThreads = Annotated[
    int | None, typer.Option(help="Of each worker; default: 1 on a CPU, 8 beside an accelerator.")
]
StallTimeout = Annotated[
    float, typer.Option(help="Seconds without a sign of life before a worker is replaced.")
]
TaskIndex = Annotated[
    int | None, typer.Option(help="shard: this task, from 0; default: the scheduler's.")
]
NumTasks = Annotated[
    int | None, typer.Option(help="shard: how many tasks; default: the scheduler's.")
]


@reported
def tokenize(
    source: Source,
    tokenizer: TokenizerName,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the codes, new or empty.")],
    unit_rows: UnitRows = None,
    max_bad_frac: MaxBadFrac = MAX_BAD_FRAC,
    batch_size: BatchSize = None,
    keep: Keep = None,
    column: Column = None,
    num_codebooks: NumCodebooks = None,
    content_hash: ContentHash = False,
    numerics: Numerics = None,
    max_flip_rate: MaxFlipRate = None,
    executor: Executor = "local",
    workers: Workers = None,
    stall_timeout: StallTimeout = 600.0,
    item_timeout: ItemTimeout = 60.0,
    decode_threads: DecodeThreads = None,
    task_index: TaskIndex = None,
    num_tasks: NumTasks = None,
    device: Device = "auto",
    resume: Resume = False,
    progress: Progress = "bar",
    as_json: JsonFlag = False,
) -> Result:
    """Tokenize a dataset into parquet files of codes.

    Every input becomes one row, in the order of the file names; an input that cannot be read
    becomes a row that says why. A run that was interrupted goes on with --resume.
    """
    if executor != "ray" and workers != 1:
        begin_workers()
    from vqtok.data import tokenize_dataset
    from vqtok.data.executors import Execution
    from vqtok.errors import InputError

    execution = Execution(
        executor, workers, stall_timeout, task_index, num_tasks, item_timeout, decode_threads
    )
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
        content_hash=content_hash or None,
        numerics=numerics,
        max_flip_rate=max_flip_rate,
        executor=execution,
        tokenizer_factory=functools.partial(load_tokenizer, tokenizer, device),
        resume=resume,
        progress=progress,
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
    file_format: Annotated[
        str | None, typer.Option("--format", help="Sounds: wav (default) or flac.")
    ] = None,
    device: Device = "auto",
    progress: Progress = "bar",
    as_json: JsonFlag = False,
) -> Result:
    """Turn codes back into files named after the inputs: .png, .wav or .flac, .txt.

    Vectors become one array a source file (.npy): row i is vector i, NaN where it had no codes.
    """
    from vqtok.data import decode_dataset, stored_tokenizer

    name = tokenizer or stored_tokenizer(codes)
    report = decode_dataset(
        codes, out, load_tokenizer(name, device), file_format=file_format, progress=progress
    )
    return Result(report.to_dict(), report.summary())


@reported
def evaluate(
    tokenizer: TokenizerName,
    data: Annotated[str, typer.Option(metavar="SOURCE", help="As for tokenize.")],
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images: centre square, resized (bicubic) to this side; default: as is."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the report here, as JSON.")
    ] = None,
    classical: Annotated[
        bool,
        typer.Option(help="Also measure JPEG and WebP, Opus, gzip and xz, or plain formats."),
    ] = True,
    batch_size: BatchSize = None,
    num_codebooks: NumCodebooks = None,
    column: Column = None,
    device: Device = "auto",
    progress: Progress = "bar",
    as_json: JsonFlag = False,
) -> Result:
    """Measure rate, distortion and codebook health of a tokenizer, beside a classical codec."""
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
        classical=classical,
        progress=progress,
    )
    values = {"tokenizer": tokenizer, "data": data} | report.to_dict()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return Result(values, evaluation_table(values))


def stored_name(tokenizer: str) -> str:
    """What a run writes down: a folder by its full path, so that it is found from anywhere."""
    return str(Path(tokenizer).resolve()) if Path(tokenizer).is_dir() else tokenizer


def begin_workers() -> None:
    """Load for the workers what this process is about to load, on another core."""
    from vqtok.data.forkserver import start_forkserver

    start_forkserver(("vqtok.models.base",))
