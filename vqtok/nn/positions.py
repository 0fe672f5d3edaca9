"""Where a token is, relative to its image: the same for every height and width.

Shapes: B batch, h w grid, D width.
"""

import math

import torch
from timm.layers.pos_embed_sincos import build_fourier_pos_embed
from torch import Tensor, nn

# Half periods across the image. Waves must stay slow on the smallest training grid: with eight of
# them up to 32 half periods, a tokenizer trained on 16 x 16 tokens drew a grid into the middle of
# images of 32 x 32 and lost 0.25 dB there.
HALF_PERIODS = (1.0, 2.0)


class RelativePositions(nn.Module):
    """Adds a learned map of sines and cosines of (row, column) in [-1, 1]; starts at zero.

    Fourier features: Tancik et al. 2020, arXiv 2006.10739. There is no table, so no size is
    special, and nothing is interpolated.
    """

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(4 * len(HALF_PERIODS), width, bias=False)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.proj.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, h, w, D] to the same."""
        bands = torch.tensor(HALF_PERIODS, device=tokens.device) * math.pi / 2
        waves = build_fourier_pos_embed(list(tokens.shape[1:3]), bands, dtype=tokens.dtype)
        return tokens + self.proj(torch.cat(waves, -1).flatten(2))
