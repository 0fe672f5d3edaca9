"""`vqtok layout` and `vqtok export`."""

from pathlib import Path
from typing import Annotated

import typer

from vqtok.cli.console import JsonFlag, Result, reported

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder, new or empty.")]

Templates = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=TEMPLATE",
        help='For example "photo=<bos>{height}{width}<boi>{image}<eoi><eos>"; repeatable.',
    ),
]


@reported
def layout(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for vqtok_layout.json.")],
    run: Annotated[
        list[str],
        typer.Option(metavar="NAME=DIR", help="Codes that `vqtok tokenize` wrote; repeatable."),
    ],
    template: Templates,
    text: Annotated[
        str | None, typer.Option(help="A text tokenizer of transformers: a folder or a Hub id.")
    ] = None,
    special: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=ID]", help="Beside bos, eos, pad, eol and those of templates."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COUNT", help="class=1000; repeatable.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LARGEST", help="height, width or length; default: those of the runs."
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=HxW", help="image=16x16, if all are alike; repeatable."),
    ] = None,
    pattern: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATTERN", help="audio=delay_flat; repeatable.")
    ] = None,
    loss_on: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME]", help="Parts to learn; default: all.")
    ] = None,
    pad_to: Annotated[int, typer.Option(min=1, help="Round the vocabulary up to this.")] = 1,
    as_json: JsonFlag = False,
) -> Result:
    """Give every code, label and special an id, and write down how sequences are made."""
    from vqtok.data import open_run
    from vqtok.layout.runs import layout_of_runs

    given = dict(word.partition("=")[::2] for word in special or ())
    made = layout_of_runs(
        {name: open_run(path) for name, path in pairs(run).items()},
        pairs(template),
        text=text_tokenizer(text),
        specials={name: whole(name, value) if value else None for name, value in given.items()},
        labels={name: whole(name, value) for name, value in pairs(label).items()},
        sizes={name: whole(name, value) for name, value in pairs(size).items()},
        patterns=pairs(pattern),
        grids=grids(grid),
        loss_on=loss_on.split(",") if loss_on else None,
        pad_to=pad_to,
    )
    path, vocab = made.save(out), made.vocab
    values = {"path": str(path), "fingerprint": vocab.fingerprint} | vocab.config()
    lines = [f"{path}: {vocab.size:,} ids, {vocab.dtype}"]
    lines += [f"  {part.span:>20}  {part}" for part in vocab.ranges if part.kind != "special"]
    return Result(values, "\n".join(lines))


@reported
def export(
    codes: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Finished runs.")],
    to: Annotated[
        str, typer.Option(help="hf, memmap, nanogpt, megatron, webdataset, mds or litdata.")
    ],
    out: Out,
    layout: Annotated[
        Path | None,
        typer.Option(help="What `vqtok layout` wrote; default: made for DIR, or plain codes."),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; default: for each DIR the one that takes its codes alone."),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="What pairs the rows of several DIRs for one template; default: the row of their "
            "one source, or the names of plain files without endings.",
        ),
    ] = None,
    packing: Annotated[str | None, typer.Option(help="none, concat or best_fit.")] = None,
    block_size: Annotated[int | None, typer.Option(min=1, help="Ids in a packed row.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="PART=COLUMN", help="Where a label or the text is; repeatable."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="The layout's text tokenizer.")] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of sequences for validation; nanogpt: 0.1."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Codes as they are, no layout.")] = False,
    as_json: JsonFlag = False,
) -> Result:
    """Write codes in the format that a prior's trainer reads."""
    from vqtok.data import open_run
    from vqtok.layout.runs import export_runs

    report = export_runs(
        [open_run(path) for path in codes],
        out,
        to,
        layout=layout,
        templates=template or (),
        join=join,
        packing=packing,
        block_size=block_size,
        columns=pairs(column),
        text_tokenizer=text_tokenizer(text),
        val_fraction=val_fraction,
        plain=plain,
    )
    return Result(report.to_dict(), report.summary())


def pairs(words: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options as a dict."""
    from vqtok.errors import ConfigError

    found = {}
    for word in words or ():
        name, sign, value = word.partition("=")
        if not (name and sign and value) or name in found:
            raise ConfigError(f"wanted NAME=VALUE, each name once; got {word!r}.")
        found[name] = value
    return found


def grids(words: list[str] | None) -> dict[str, list[int]]:
    """NAME=HxW options as a dict."""
    sides = {name: value.split("x") for name, value in pairs(words).items()}
    return {name: [whole(name, side) for side in found] for name, found in sides.items()}


def whole(name: str, value: str) -> int:
    from vqtok.errors import ConfigError

    if not value.isdecimal():
        raise ConfigError(f"{name} wants a whole number; got {value!r}.")
    return int(value)


def text_tokenizer(name: str | None):
    if name is None:
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)
