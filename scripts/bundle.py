"""Puts a trained tokenizer into the package: vqtok/pretrained/NAME, float16, at most 8 MB.

    python scripts/bundle.py runs/vim_vq_tiny/tokenizer vim-vq-tiny

Matrices of encoder and decoder are rounded to float16, codebooks stay float32; the card in
model_cards/ reports numbers measured on what this writes.
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch

from vqtok import AutoVQTokenizer

PRETRAINED = Path(__file__).resolve().parents[1] / "vqtok" / "pretrained"
LIMIT_BYTES = 8_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a tokenizer that save_pretrained wrote")
    parser.add_argument("name", help="the name under vqtok/, for example vim-vq-tiny")
    options = parser.parse_args()
    target = PRETRAINED / options.name
    made = target.with_name(f".{options.name}")
    tokenizer = AutoVQTokenizer.from_pretrained(options.folder, device="cpu")
    tokenizer.save_pretrained(made, dtype=torch.float16)
    size = sum(path.stat().st_size for path in made.iterdir())
    if size > LIMIT_BYTES:
        shutil.rmtree(made)
        print(f"{options.folder} takes {size:,} bytes, above {LIMIT_BYTES:,}", file=sys.stderr)
        return 1
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)
    print(f"{target}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
