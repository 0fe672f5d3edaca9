"""Attention over the nearest frames of a long signal, the same wherever a frame is.

A frame attends to `window` frames before it and, if not causal, as many after it. Beyond the ends
of the signal there are null tokens: frames of zeros, of which norm, key and value are zero because
nothing here has a bias. They take their share of the softmax and add nothing, so a window cut out
of a long signal with its context gives exactly the frames of the whole.

Source of the rotary positions: Su et al. 2021 (RoFormer), arXiv 2104.09864, section 3.4.2.
Shapes: B batch, n frames that come out, D width, H heads, E = D / H, m blocks of S queries, each
with its L = left + S + right keys. Memory grows with n L / S, which is n times the window.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.devices import autocast_off
from vqtok.errors import ConfigError, ShapeError
from vqtok.nn.time_layers import RMSNorm, TimeLayer

MIN_BLOCK = 32  # queries; a small window would make many small products
EXPANSION = 3  # hidden width of the MLP over D
ROTARY_BASE = 10_000.0


class LocalAttentionBlock(TimeLayer):
    """Residual block: attention to the nearest frames, then an MLP; a fresh one is the identity.

    Args:
        width: D, an even multiple of `heads`.
        heads: H.
        window: frames before a frame that it attends to, besides itself; 1 or more.
        causal: without it, as many frames after it.

    Raises:
        ConfigError: sizes that do not fit each other.

    Attributes:
        left: frames of context before the first frame that `valid` gives: `window`.
        right: after the last one: 0 if causal, else `window`.
    """

    def __init__(self, width: int, heads: int, window: int, causal: bool):
        super().__init__()
        if min(width, heads, window) < 1 or width % (2 * heads):
            raise ConfigError(
                "local attention wants window >= 1 and a width that is an even multiple of heads; "
                f"got width={width}, heads={heads}, window={window}."
            )
        self.width, self.heads = width, heads
        self.left, self.right = window, 0 if causal else window
        self.norm = RMSNorm(width)
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.mixed = nn.Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width)
        self.spread = nn.Linear(width, EXPANSION * width, bias=False)
        self.gather = nn.Linear(EXPANSION * width, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.children():
            module.reset_parameters()
        nn.init.zeros_(self.mixed.weight)
        nn.init.zeros_(self.gather.weight)

    def valid(self, x: Tensor) -> Tensor:
        """[B, left + n + right, D] to [B, n, D]; context outside the signal is zeros."""
        context = self.left + self.right
        if x.ndim != 3 or x.shape[2] != self.width or x.shape[1] < context:
            raise ShapeError(
                f"local attention wants [B, T, {self.width}] with T >= {context} frames of "
                f"context; got {list(x.shape)}."
            )
        frames = x.shape[1] - context
        own = x[:, self.left : self.left + frames]
        if own.numel() == 0:
            return own
        own = own + self.mixed(self._attend(self.norm(x), frames))
        return own + self.gather(F.silu(self.spread(self.mlp_norm(own))))

    def _attend(self, x: Tensor, frames: int) -> Tensor:
        """[B, left + n + right, D] normed to [B, n, D]."""
        size = min(frames, max(self.left, MIN_BLOCK))
        reach = self.left + size + self.right
        x = F.pad(x, (0, 0, 0, -frames % size))  # whole blocks; the rest is cut off again
        queries = self.queries(x[:, self.left : x.shape[1] - self.right])
        queries = queries.unflatten(1, (-1, size)).unflatten(
            -1, (self.heads, -1)
        )  # [B, m, S, H, E]
        keys_values = self.keys_values(x).unfold(1, reach, size).mT  # [B, m, L, 2 D]
        keys, values = keys_values.unflatten(-1, (2, self.heads, -1)).unbind(3)

        # positions count from the start of a block: exact however long the signal is
        places = torch.arange(reach, device=x.device)
        queries = rotated(queries, places[self.left : self.left + size])
        ahead = places - places[:size, None]  # [S, L], 0 at the oldest frame in the window
        band = (ahead >= 0) & (ahead <= self.left + self.right)
        q, k, v = (
            t.transpose(2, 3).flatten(0, 1) for t in (queries, rotated(keys, places), values)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=band)  # [B m, H, S, E]
        return y.transpose(1, 2).reshape(x.shape[0], -1, self.width)[:, :frames]


def rotated(x: Tensor, places: Tensor) -> Tensor:
    """[..., S, H, E] turned by the angles of its places [S]; E is even.

    The product of a query and a key that are turned so depends on the distance of their places.
    """
    with autocast_off(x.device):
        half = x.shape[-1] // 2
        rates = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angles = places[:, None, None] * rates  # [S, 1, E / 2]
        first, second = x.float().chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        turned = [first * cos - second * sin, first * sin + second * cos]
        return torch.cat(turned, -1).to(x.dtype)
