"""Results for a person, as rich tables."""

import io
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from vqtok.cli.console import printable

# what a report counts, and how its numbers are called and written
COUNTED = {"image": "images", "audio": "sounds", "text": "texts", "embedding": "vectors"}
NUMBERS = {
    "bits_per_pixel": ("rate", "{:.4f} bits per pixel"),
    "kilobits_per_second": ("rate", "{:.3f} kbit/s"),
    "bits_per_vector": ("rate", "{:.1f} bits per vector"),
    "bits_per_byte": ("rate", "{:.4f} bits per byte"),
    "bits_per_byte_with_escapes": ("rate with escapes", "{:.4f} bits per byte"),
    "psnr": ("PSNR, mean of images", "{:.2f} dB"),
    "psnr_of_mean_error": ("PSNR of the mean error", "{:.2f} dB"),
    "ssim": ("SSIM", "{:.4f}"),
    "mel_distance": ("mel distance", "{:.4f}"),
    "stft_distance": ("STFT distance", "{:.4f}"),
    "si_sdr": ("SI-SDR", "{:.2f} dB"),
    "pesq": ("PESQ", "{:.3f}"),
    "stoi": ("STOI", "{:.4f}"),
    "byte_accuracy": ("bytes right before escapes", "{:.4%}"),
    "exact": ("texts that came back exactly", "{:.2%}"),
    "mse": ("mean squared error", "{:.6g}"),
    "relative_error": ("error over variance", "{:.4f}"),
    "cosine": ("cosine", "{:.4f}"),
    "recall_at_10": ("10 nearest neighbours kept", "{:.2%}"),
}


def evaluation_table(values: dict[str, Any]) -> str:
    """The report of `vqtok evaluate`."""
    counted = COUNTED[values["modality"]]
    size = f", {values['size']} x {values['size']}" if values.get("size") else ""
    skipped = f", {values['skipped']} skipped {values['status']}" if values["skipped"] else ""
    rows = [(counted, f"{values[counted]}{size}{skipped}")]
    rows += [
        (label, number(name, values[name]))
        for name, (label, _) in NUMBERS.items()
        if name in values
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
    title = f"{values['tokenizer']} on {values['data']}"
    return "\n".join([two_columns(title, rows), *map(codec_table, values["classical"])])


def codec_table(entry: dict[str, Any]) -> str:
    """A classical codec and the tokenizer on the inputs that the codec managed."""
    tried = entry["items"] + entry["failed"]
    rows = [
        (
            NUMBERS[name][0],
            f"{number(name, value)}; tokenizer {number(name, entry['tokenizer_values'][name])}",
        )
        for name, value in entry["codec_values"].items()
    ]
    rows += [("note", entry["note"])] if entry["note"] else []
    title = f"{entry['codec']} on {entry['items']} of {tried}" if tried else entry["codec"]
    return two_columns(title, rows)


def number(name: str, value: float | None) -> str:
    """A number as it is written; a dash where there is none."""
    return "-" if value is None else NUMBERS[name][1].format(value)


def run_table(values: dict[str, Any]) -> str:
    """The report of `vqtok report`."""
    per_token, rate = values["bytes_per_token"], values["rows_per_second"]
    state = "finished" if values["finished"] else "not finished"
    real_time = values["times_real_time"]
    wall = values["wall_seconds"]
    rows = [
        ("tokenizer", values["tokenizer"]),
        ("numerics", values["numerics"]),
        ("state", f"{state}, {values['units']:,} of {values['units_planned']:,} files"),
        ("rows", f"{values['rows']:,} of {values['rows_planned']:,}"),
        ("tokens", f"{values['tokens']:,} in {values['bytes']:,} bytes"),
        (
            "bytes per token",
            f"{'-' if per_token is None else f'{per_token:.3f}'}; "
            f"log2 K / 8 is {values['least_bytes_per_token']:.3f}",
        ),
        (
            "work",
            f"{values['seconds']:,.1f} s of {len(values['workers'])} workers"
            + ("" if wall is None else f" in {wall:,.1f} s"),
        ),
        (
            "speed of a worker",
            "-"
            if rate is None
            else f"{rate:,.1f} rows/s, {values['tokens_per_second']:,.0f} tokens/s"
            + ("" if real_time is None else f", {real_time:,.1f} times real time"),
        ),
        ("bound", values["verdict"]),
        *_stage_rows(values),
        *_codebook_rows(values),
    ]
    rows += [(f"bad: {status}", f"{count:,}") for status, count in values["bad"].items()]
    rows += [(f"{row['src']}:{row['src_row']}", row["error"]) for row in values["examples"][:5]]
    return two_columns(values["out"], rows)


def _stage_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            f"stage {stage['stage']}",
            f"{stage['seconds']:,.2f} s ({stage['share']:.1%}); a unit: p50 {stage['median']:.3g} "
            f"s, p95 {stage['p95']:.3g} s",
        )
        for stage in values["stages"]
    ]
    rows += [
        (
            f"straggler unit {slow['unit']}",
            f"{slow['seconds']:,.2f} s, {slow['times_median']:.1f} times the median a row "
            f"({slow['worker']})",
        )
        for slow in values["stragglers"]
    ]
    if values["worker_ends"]:
        rows.append(("made again", f"{values['worker_ends']:,} times a worker ended on a unit"))
    if values["adopted"]:
        rows.append(("found after a crash", f"{values['adopted']:,} files, of unknown times"))
    return rows


def _codebook_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    counted = "" if values["finished"] else f", in {values['codebooks_from']}"
    return [
        (
            f"codebook {level}",
            f"{stats['usage']:.1%} of {stats['codebook_size']} used, perplexity "
            f"{stats['perplexity']:.1f}{counted}",
        )
        for level, stats in enumerate(values["codebooks"])
    ]


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
    table = Table(title=printable(title), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(file=io.StringIO(), width=Console().width)
    console.print(table, markup=False)
    return console.file.getvalue().rstrip("\n")
