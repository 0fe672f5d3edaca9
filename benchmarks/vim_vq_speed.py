"""VIM-VQ beside a ViT and beside transformers' Mamba-2, at 256 to 16,384 tokens, paired.

    python benchmarks/vim_vq_speed.py encoders    # images to codes or features, VIM-VQ tiny
    python benchmarks/vim_vq_speed.py blocks --width 384

Every round times all three, one after the other, so that a machine that slows down slows all of
them; the figures are medians over the rounds, and of ratios within a round.

- ours: `tok.encode` (quantizer included), or one `BidirectionalMambaBlock`: both directions.
- vit: timm's ViT of the same width, depth and patch, or one of its blocks; heads of 64.
- mamba2: transformers' Mamba-2 torch path of the same width and depth behind the same patch
  embedding, or one mixer: one direction, its default state of 128.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from transformers import Mamba2Config, Mamba2Model
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.utils import logging

from vqtok.models.vim_vq.configuration_vim_vq import VimVQConfig
from vqtok.models.vim_vq.modeling_vim_vq import VimVQModel
from vqtok.nn.patches import PatchEmbedding
from vqtok.nn.vision_mamba import BidirectionalMambaBlock

LENGTHS = (256, 1024, 4096, 16384)
OTHERS = ("vit", "mamba2")
PATCH_PIXELS = 8

Contenders = dict[str, Callable[[Tensor], object]]


def mamba2_config(width: int, depth: int) -> Mamba2Config:
    return Mamba2Config(
        hidden_size=width,
        num_heads=width // 32,
        head_dim=64,
        n_groups=1,
        num_hidden_layers=depth,
        vocab_size=1,
    )


def blocks(width: int) -> Contenders:
    """One block each; they take tokens [B, L, width]."""
    ours = BidirectionalMambaBlock(width).eval()

    def on_grid(tokens: Tensor) -> Tensor:
        side = math.isqrt(tokens.shape[1])
        return ours(tokens.unflatten(1, (side, side)))

    vit = Block(width, width // 64).eval()
    return {"ours": on_grid, "vit": vit, "mamba2": Mamba2Mixer(mamba2_config(width, 1), 0).eval()}


def encoders(width: int) -> Contenders:
    """Whole encoders; they take pixels [B, 3, H, W]."""
    config = VimVQConfig.preset("tiny", width=width)
    depth = config.encoder_depth
    vit = VisionTransformer(
        patch_size=PATCH_PIXELS,
        embed_dim=width,
        depth=depth,
        num_heads=width // 64,
        num_classes=0,
        dynamic_img_size=True,
    ).eval()
    embed, mamba2 = (
        PatchEmbedding(PATCH_PIXELS, width),
        Mamba2Model(mamba2_config(width, depth)).eval(),
    )
    return {
        "ours": VimVQModel(config).eval().encode,
        "vit": vit.forward_features,
        "mamba2": lambda pixels: mamba2(inputs_embeds=embed(pixels).flatten(1, 2)),
    }


def inputs(level: str, width: int, length: int, tokens_a_call: int) -> Tensor:
    batch = max(1, tokens_a_call // length)
    if level == "blocks":
        return torch.randn(batch, length, width)
    side = math.isqrt(length) * PATCH_PIXELS
    return torch.rand(batch, 3, side, side) * 2 - 1


def seconds(call: Callable[[Tensor], object], batch: Tensor) -> float:
    start = time.perf_counter()
    call(batch)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(contenders: Contenders, batch: Tensor, tokens: int, rounds: int) -> dict[str, float]:
    """Medians over `rounds` of microseconds per token, and of the ratios within a round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call(batch)
    for _ in range(rounds):
        for name, call in contenders.items():
            times[name].append(seconds(call, batch))
    row = {f"{name}_us": statistics.median(t) / tokens * 1e6 for name, t in times.items()}
    for other in OTHERS:
        ratios = (a / b for a, b in zip(times["ours"], times[other], strict=True))
        row[f"ours_over_{other}"] = statistics.median(ratios)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("level", choices=("encoders", "blocks"))
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--tokens-a-call", type=int, default=1024, help="small inputs are batched")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.set_verbosity_error()  # that Mamba-2 runs its torch path is the point here

    print(f"{options.level}, width {options.width}, {torch.get_num_threads()} threads, us/token")
    print(f"{'tokens':>7} {'ours':>9} {'vit':>9} {'mamba2':>9}  ours/vit  ours/mamba2")
    contenders = {"encoders": encoders, "blocks": blocks}[options.level](options.width)
    rows = []
    for length in options.lengths:
        batch = inputs(options.level, options.width, length, options.tokens_a_call)
        row = measure(contenders, batch, batch.shape[0] * length, options.rounds)
        rows.append({"tokens": length} | row)
        figures = " ".join(f"{row[f'{name}_us']:9.2f}" for name in contenders)
        print(f"{length:7} {figures}  {row['ours_over_vit']:8.2f}  {row['ours_over_mamba2']:11.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
