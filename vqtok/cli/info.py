"""`vqtok info T`: what a tokenizer is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vqtok.cli.console import Device, JsonFlag, Result, load_tokenizer, reported


@reported
def info(
    tokenizer: Annotated[
        str, typer.Argument(metavar="T", help="A folder, a bundled name, or a Hub id.")
    ],
    device: Device = "cpu",
    as_json: JsonFlag = False,
) -> Result:
    """Say what a tokenizer is: modality, size, codebooks, rate, fingerprints, configuration."""
    from vqtok.cli.tables import info_table

    values = facts(load_tokenizer(tokenizer, device), tokenizer)
    return Result(values, info_table(values))


def facts(tokenizer: Any, name: str) -> dict:
    """Everything that `info` shows, as JSON can hold it."""
    from vqtok.data.manifest import describe_tokenizer

    parts = dict(tokenizer.named_children())
    parameters = {part: count_parameters(module) for part, module in parts.items()}
    folder = next((Path(n) for n in (name, tokenizer.name_or_path) if n and Path(n).is_dir()), None)
    return describe_tokenizer(tokenizer, name) | {
        "parameters": count_parameters(tokenizer),
        "parameters_by_part": parameters,
        "folder": str(folder.resolve()) if folder else None,
        "bytes_on_disk": disk_bytes(folder) if folder else None,
        "config": tokenizer.config.to_diff_dict(),
    }


def count_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
