"""Results for a person, as rich tables."""

import io
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table


def evaluation_table(values: dict[str, Any]) -> str:
    """The report of `vqtok evaluate`."""
    size = f"{values['size']} x {values['size']}" if values["size"] else "as they are"
    skipped = f", {values['skipped']} skipped {values['status']}" if values["skipped"] else ""
    rows = [
        ("images", f"{values['images']}, {size}{skipped}"),
        ("rate", f"{values['bits_per_pixel']:.4f} bits per pixel"),
        ("PSNR, mean of images", f"{values['psnr']:.2f} dB"),
        ("PSNR of the mean error", f"{values['psnr_of_mean_error']:.2f} dB"),
        ("SSIM", "-" if values["ssim"] is None else f"{values['ssim']:.4f}"),
    ]
    for level, stats in enumerate(values["codebooks"]):
        rows.append(
            (
                f"codebook {level}",
                f"{stats['usage']:.1%} of {stats['codebook_size']} codes used, perplexity "
                f"{stats['perplexity']:.1f}, entropy {stats['entropy_bits']:.2f} bits "
                f"({stats['total']} codes counted)",
            )
        )
    return two_columns(f"{values['tokenizer']} on {values['data']}", rows)


def info_table(values: dict[str, Any]) -> str:
    """The report of `vqtok info`."""
    counts = values["parameters_by_part"].items()
    # a codebook that is averaged, not learned by gradient, has no parameters
    parts = ", ".join(f"{name} {count:,}" for name, count in counts if count)
    on_disk = values["bytes_on_disk"]
    rate = values["rate"]
    rows = [
        ("class", values["class"]),
        ("modality", values["modality"]),
        ("parameters", f"{values['parameters']:,} ({parts})"),
        ("on disk", "-" if on_disk is None else f"{on_disk / 1e6:.1f} MB in {values['folder']}"),
        ("codebooks", f"{values['num_codebooks']} of {values['codebook_sizes']} codes"),
        ("rate", f"{rate['bits']:.4g} bits per {rate['per']}"),
        *((f"{name} fingerprint", digest) for name, digest in values["fingerprint"].items()),
        *((f"config.{name}", str(value)) for name, value in values["config"].items()),
    ]
    return two_columns(values["name"], rows)


def two_columns(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A table as text, as wide as the terminal (80 columns where there is none)."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=Console().width)
    console.print(table, markup=False)
    return console.file.getvalue().rstrip("\n")
