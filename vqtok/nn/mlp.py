"""A residual block of two linear maps, which works on every position by itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualMLP(nn.Module):
    """x + down(gelu(up(norm(x)))): [..., width] to the same; starts as the identity.

    Args:
        width: of input and output.
        hidden: between the two maps.
        dtype: of the weights; None is torch's default.
    """

    def __init__(self, width: int, hidden: int, dtype: torch.dtype | None = None):
        super().__init__()
        self.norm = nn.LayerNorm(width, dtype=dtype)
        self.up = nn.Linear(width, hidden, dtype=dtype)
        self.down = nn.Linear(hidden, width, dtype=dtype)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))
