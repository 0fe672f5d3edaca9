"""How many codes change with the batch, with bfloat16, and after coming back from it.

    python scripts/determinism.py vqtok/vim-vq-tiny PHOTOS [--limit 24]

Prints the share of codes that differ from float32 one image at a time, and how much farther from
the latent the other code is, relative to the nearest one (the regret; a near tie is below 1e-4).
The model cards quote it.
"""

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor

from vqtok import AutoVQTokenizer
from vqtok.data.sources import open_source
from vqtok.models.base import VQTokenizerModel


def squares(tokenizer: VQTokenizerModel, folder: Path, limit: int, size: int) -> Tensor:
    """Centre squares of the first images of a folder, [N, 3, size, size], not resized."""
    images = []
    for shard in open_source(folder).list():
        pixels, _ = tokenizer.processor.read(folder / shard.uri)
        top, left = ((side - size) // 2 for side in pixels.shape[1:])
        if min(top, left) >= 0:
            images.append(pixels[:, top : top + size, left : left + size])
    return torch.stack(images[:limit])


def compare(name: str, latents: Tensor, codes: Tensor, other: Tensor, decode) -> None:
    """One line of the table; latents [N, h, w, D], codes and other [N, 1, h, w]."""
    differs = (codes != other)[:, 0]
    line = f"{name:28} {differs.float().mean().item():.6f}"
    if differs.any():
        near, far = (
            (latents - decode(c.movedim(1, -1)))[differs].norm(dim=-1) for c in (codes, other)
        )
        line += f"   {((far - near) / near).max().item():.2e}"
    print(line)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer")
    parser.add_argument("photos", type=Path, help="a folder of images")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    tok = AutoVQTokenizer.from_pretrained(options.tokenizer, device="cpu")
    pixels = squares(tok, options.photos, options.limit, options.size)
    latents = torch.cat([tok.encoder(image[None]) for image in pixels])
    codes = torch.cat([tok.encode(image[None]) for image in pixels])
    decode = tok.quantizer.decode

    print(f"{len(pixels)} images, {codes.numel()} codes")
    print(f"{'against one at a time':28} differ     largest regret")
    for batch in (3, 16):
        other = torch.cat([tok.encode(part) for part in pixels.split(batch)])
        compare(f"batches of {batch}", latents, codes, other, decode)
    half = copy.deepcopy(tok).to(torch.bfloat16)
    compare("bfloat16", latents, codes, half.encode(pixels), decode)
    compare("bfloat16 and back", latents, codes, half.float().encode(pixels), decode)


if __name__ == "__main__":
    main()
