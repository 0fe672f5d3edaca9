"""Where a token is, relative to its image: the same for every height and width.

Shapes: B batch, h w grid, D width.
"""

import torch
from timm.layers.pos_embed_sincos import build_fourier_pos_embed
from torch import Tensor, nn

BANDS = 8
MAX_RESOLUTION = 64  # the finest wave has half as many periods across the image


class RelativePositions(nn.Module):
    """Adds a learned map of sines and cosines of (row, column) in [-1, 1]; starts at zero.

    Fourier features: Tancik et al. 2020, arXiv 2006.10739. There is no table, so no size is
    special, and nothing is interpolated.
    """

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(4 * BANDS, width, bias=False)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.proj.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, h, w, D] to the same."""
        waves = build_fourier_pos_embed(
            list(tokens.shape[1:3]),
            num_bands=BANDS,
            max_res=MAX_RESOLUTION,
            device=tokens.device,
            dtype=tokens.dtype,
        )
        return tokens + self.proj(torch.cat(waves, -1).flatten(2))
