"""Convolutions around the token grid: a stem before it and a refiner after it.

Both are residual beside a linear patch map and start at zero, so that a fresh model is that map.

Shapes: B batch, H W pixels, h w grid, p pixels of a patch side, D width.
"""

import math
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class ConvStem(nn.Module):
    """[B, 3, H, W] pixels to [B, h, w, D]: 3 x 3 convolutions of stride 2 down to the grid.

    Overlapping windows see across patch borders, which a patch embedding cannot.
    Xiao et al. 2021 (Early convolutions help transformers see better), arXiv 2106.14881.
    """

    def __init__(self, patch_pixels: int, width: int):
        super().__init__()
        steps = int(math.log2(patch_pixels))
        widths = [3, *(max(16, width >> (steps - 1 - i)) for i in range(steps))]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.proj = nn.Linear(widths[-1], width)

    def reset_parameters(self) -> None:
        for conv in self.convs:
            conv.reset_parameters()
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        for conv in self.convs:
            pixels = F.silu(conv(pixels))
        return self.proj(pixels.permute(0, 2, 3, 1))


class PixelRefiner(nn.Module):
    """[B, h, w, D] tokens to a correction [B, 3, H, W] that smooths across patch borders.

    Tokens become a map of `channels` at half the resolution of the image, two 3 x 3 convolutions
    look across borders, and every point becomes 2 x 2 pixels (sub-pixel convolution: Shi et al.
    2016, arXiv 1609.05158).
    """

    def __init__(self, patch_pixels: int, width: int, channels: int):
        super().__init__()
        self.side = patch_pixels // 2
        self.spread = nn.Linear(width, channels * self.side**2)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.to_pixels = nn.Conv2d(channels, 12, 3, padding=1)

    def reset_parameters(self) -> None:
        self.spread.reset_parameters()
        self.mix.reset_parameters()
        nn.init.zeros_(self.to_pixels.weight)
        nn.init.zeros_(self.to_pixels.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        spread = self.spread(tokens)
        x = rearrange(spread, "b h w (p q c) -> b c (h p) (w q)", p=self.side, q=self.side)
        x = x + self.mix(F.silu(x))
        return F.pixel_shuffle(self.to_pixels(F.silu(x)), 2)
