"""Photos to codes and back: tokenizes the sample photos, decodes them and shows what came back.

Run it with `bash scripts/quickstart.sh`. It calls the two commands that a user would call, then
measures and draws. `report.json` is written last and names every result by its digest, so a second
run sees that nothing is left to do, and one after a change starts afresh.
"""

import argparse
import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = REPOSITORY / "vqtok" / "samples"
TOKENIZER = "vqtok/vim-vq-tiny"
WEIGHTS = REPOSITORY / "vqtok" / "pretrained" / "vim-vq-tiny"
RUN_VQTOK = "from vqtok.cli import app; app()"  # what the program `vqtok` does

PAPER, INK, FAINT = (255, 255, 255), (28, 30, 34), (110, 116, 124)
MARGIN, GAP, LINE_WIDTH = 32, 20, 1600
TITLE_HEIGHT, CAPTION_HEIGHT = 76, 58


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "quickstart")
    out = parser.parse_args().out
    if not (WEIGHTS / "model.safetensors").is_file():
        print(f"quickstart: the bundled tokenizer is not in {WEIGHTS}", file=sys.stderr)
        return 1
    inputs = digest([*files_in(WEIGHTS), *files_in(SAMPLES)])
    report = finished_report(out, inputs)
    try:
        report = report or build(out, inputs)
    except subprocess.CalledProcessError as failed:
        return failed.returncode  # the command has said why
    show(report, out)
    return 0


def build(out: Path, inputs: str) -> dict:
    """Runs every step into `out` and returns the report that it wrote there."""
    for stale in (out / "codes", out / "decoded"):
        shutil.rmtree(stale, ignore_errors=True)
    (out / "report.json").unlink(missing_ok=True)
    vqtok("tokenize", SAMPLES, "--tokenizer", TOKENIZER, "--out", out / "codes")
    vqtok("decode", out / "codes", "--out", out / "decoded")
    pairs, report = measure(out)
    contact_sheet(pairs, report["photos"]).save(out / "contact_sheet.png", optimize=True)
    results = [path for path in files_in(out) if path.name != "report.json"]
    report |= {"inputs": inputs, "outputs": {str(p.relative_to(out)): digest([p]) for p in results}}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def vqtok(*arguments: object) -> None:
    """Runs one command of the command line, and shows it."""
    words = [str(word) for word in arguments]
    print("$ vqtok", *(word.removeprefix(f"{Path.cwd()}/") for word in words), flush=True)
    subprocess.run([sys.executable, "-c", RUN_VQTOK, *words], check=True)


def measure(out: Path) -> tuple[list[tuple[Image.Image, Image.Image]], dict]:
    """Pairs of photo and reconstruction, and a row of numbers for each and for all."""
    from vqtok import load_codes

    manifest = json.loads((out / "codes" / "vqtok.json").read_text(encoding="utf-8"))
    (codebook_size,) = manifest["tokenizer"]["codebook_sizes"]
    pairs, rows, used = [], [], set()
    for row in load_codes(out / "codes"):
        photo = Image.open(SAMPLES / row["src"]).convert("RGB")
        decoded = Image.open(decoded_path(out, row)).convert("RGB")
        pairs.append((photo, decoded))
        used |= set(row["codes"])
        rows.append(
            {
                "photo": row["src"],
                "width": photo.width,
                "height": photo.height,
                "bits": len(row["codes"]) * math.log2(codebook_size),
                **distortion(photo, decoded),
                "codes_used": len(set(row["codes"])),
            }
        )
    return pairs, {"photos": rows, "total": total_of(rows, used), "codebook_size": codebook_size}


def distortion(photo: Image.Image, decoded: Image.Image) -> dict[str, float]:
    """PSNR and SSIM on the pixels of the two files, as `vqtok evaluate` measures them."""
    import numpy as np
    import torch

    from vqtok.metrics.image import psnr, ssim

    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in (decoded, photo)]
    return {"psnr_db": psnr(*pixels).item(), "ssim": ssim(*pixels).item()}


def decoded_path(out: Path, row: dict) -> Path:
    return out / "decoded" / f"{Path(row['src']).stem}.png"


def total_of(rows: list[dict], used: set[int]) -> dict:
    """Bits over all pixels; PSNR and SSIM as means over photos."""
    return {
        "bits": sum(row["bits"] for row in rows),
        "pixels": sum(row["width"] * row["height"] for row in rows),
        "psnr_db": sum(row["psnr_db"] for row in rows) / len(rows),
        "ssim": sum(row["ssim"] for row in rows) / len(rows),
        "codes_used": len(used),
    }


def finished_report(out: Path, inputs: str) -> dict | None:
    """The report of an earlier run, if it had the same inputs and its results are still there."""
    path = out / "report.json"
    if not path.is_file():
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    same = report["inputs"] == inputs and all(
        (out / name).is_file() and digest([out / name]) == expected
        for name, expected in report["outputs"].items()
    )
    return report if same else None


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest(files: list[Path]) -> str:
    """SHA-256 of the names and the bytes."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def show(report: dict, out: Path) -> None:
    table = Table(title=f"{TOKENIZER} on the sample photos")
    for column in ("photo", "size", "bits per pixel", "PSNR dB", "SSIM", "codes used"):
        table.add_column(column, justify="left" if column == "photo" else "right", no_wrap=True)
    for row in report["photos"]:
        pixels = row["width"] * row["height"]
        size = f"{row['width']} x {row['height']}"
        table.add_row(row["photo"], size, *numbers(row, pixels), str(row["codes_used"]))
    table.add_section()
    total = report["total"]
    used = f"{total['codes_used']} of {report['codebook_size']}"
    table.add_row("all", "", *numbers(total, total["pixels"]), used)
    console = Console()
    console.print(table)
    for name, what in (
        ("contact_sheet.png", "every photo over its reconstruction"),
        ("codes", "the parquet dataset of codes"),
        ("decoded", "the photos that came back"),
    ):
        place = str(out / name).removeprefix(f"{Path.cwd()}/")
        console.print(f"{place}: {what}", highlight=False, soft_wrap=True)


def numbers(row: dict, pixels: int) -> list[str]:
    return [f"{row['bits'] / pixels:.4f}", f"{row['psnr_db']:.2f}", f"{row['ssim']:.3f}"]


def contact_sheet(pairs: list[tuple[Image.Image, Image.Image]], rows: list[dict]) -> Image.Image:
    """Every photo over its reconstruction, pixel for pixel, with its numbers underneath."""
    lines, x = [[]], 0
    for pair, row in zip(pairs, rows, strict=True):
        if lines[-1] and x + pair[0].width > LINE_WIDTH:
            lines.append([])
            x = 0
        lines[-1].append((pair, row))
        x += pair[0].width + GAP
    heights = [2 * max(pair[0].height for pair, _ in line) + CAPTION_HEIGHT for line in lines]
    height = MARGIN + TITLE_HEIGHT + sum(heights) + GAP * (len(lines) - 1) + MARGIN
    widths = [sum(pair[0].width + GAP for pair, _ in line) - GAP for line in lines]
    sheet = Image.new("RGB", (max(widths) + 2 * MARGIN, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), f"{TOKENIZER}: photos to codes and back", INK, font(28))
    legend = "above: the photo · below: what came back from its codes"
    draw.text((MARGIN, MARGIN + 32), legend, FAINT, font(17))
    y = MARGIN + TITLE_HEIGHT
    for line, line_height in zip(lines, heights, strict=True):
        x = MARGIN
        for (photo, decoded), row in line:
            sheet.paste(photo, (x, y))
            sheet.paste(decoded, (x, y + photo.height + 2))
            caption(draw, (x, y + 2 * photo.height + 8), row)
            x += photo.width + GAP
        y += line_height + GAP
    return sheet


def caption(draw: ImageDraw.ImageDraw, place: tuple[int, int], row: dict) -> None:
    x, y = place
    bits_per_pixel, psnr_db, ssim = numbers(row, row["width"] * row["height"])
    draw.text((x, y), f"{row['photo']} · {row['codes_used']} codes", INK, font(16))
    measured = f"{bits_per_pixel} bits per pixel · {psnr_db} dB · SSIM {ssim}"
    draw.text((x, y + 22), measured, FAINT, font(14))


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


if __name__ == "__main__":
    sys.exit(main())
