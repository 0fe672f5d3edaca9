"""Vision-Mamba blocks: a Mamba-2 mixer that looks both ways along rows or columns.

    x ─ norm ─ in_proj ─┬─ conv ─ silu ─ scan forward + backward ─ + D x ─ norm ─┐
                        ├─ dt, b, c of either direction                          × ─ out_proj ─ + x
                        └─ gate ─ silu ──────────────────────────────────────────┘

Sources: Dao and Gu 2024 (Mamba-2), arXiv 2405.21060; Zhu et al. 2024 (Vision Mamba), arXiv
2401.09417: one projection and one gate serve both directions, whose mean is taken; Hatamizadeh
and Kautz 2024 (MambaVision), arXiv 2407.08083: the convolution is not causal. Unlike the code of
Vision Mamba, the backward scan runs on every device.

Shapes: B batch, L tokens, h w grid, D width, H heads, P channels a head, N state size.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.devices import autocast_off
from vqtok.errors import ConfigError, ShapeError
from vqtok.ops.scan import bidirectional_scan

EXPAND = 2  # inner width over outer width, as in Mamba
DT_RANGE = (1e-3, 1e-1)  # step sizes at the start, as in Mamba-2
A_RANGE = (1.0, 16.0)  # decay rates at the start, as in Mamba-2


class BidirectionalMambaBlock(nn.Module):
    """Residual block: pre-norm, two-way Mamba-2 mixer, 3 x 3 or 3-tap depthwise convolution.

    Called with a sequence [B, L, D] or a grid [B, h, w, D]; returns the same shape. A grid is
    scanned as one sequence: row after row, or column after column with `scan="columns"`.

    Args:
        width: D; a multiple of 8.
        state_size: N of every head.
        head_dim: P; the inner width 2 D must be a multiple of it.
        scan: "rows" or "columns"; a sequence has only rows.

    Raises:
        ConfigError: sizes that do not fit each other, or an unknown scan.
    """

    def __init__(
        self, width: int, state_size: int = 16, head_dim: int | None = None, scan: str = "rows"
    ):
        super().__init__()
        inner = EXPAND * width
        head_dim = head_dim or math.gcd(inner, 64)
        if width < 1 or head_dim < 1 or inner % head_dim or state_size < 1:
            raise ConfigError(
                "a Mamba block wants width >= 1, state_size >= 1 and head_dim dividing 2 * width; "
                f"got width={width}, state_size={state_size}, head_dim={head_dim}."
            )
        if scan not in ("rows", "columns"):
            raise ConfigError(f'scan must be "rows" or "columns"; got {scan!r}.')
        self.scan = scan
        self.inner, self.state_size, self.heads = inner, state_size, inner // head_dim
        # layer norm, not RMS norm: torch has one fused kernel for it on CPU, four passes for RMS
        self.norm = nn.LayerNorm(width, bias=False)
        self.in_proj = nn.Linear(width, 2 * inner + 4 * state_size + 2 * self.heads, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.dt_bias = nn.Parameter(torch.empty(self.heads, 2, dtype=torch.float32))
        self.a_log = nn.Parameter(torch.empty(self.heads, 2, dtype=torch.float32))
        self.skip = nn.Parameter(torch.empty(self.heads, dtype=torch.float32))
        self.inner_norm = nn.LayerNorm(inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Mamba-2's starting decay and step sizes; the rest is torch's own start."""
        for module in (self.norm, self.in_proj, self.conv, self.inner_norm, self.out_proj):
            module.reset_parameters()
        start_dynamics(self.dt_bias, self.a_log, self.skip)
        # a block starts close to the identity, so that deep stacks start close to their input
        self.out_proj.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] or [B, h, w, D] to the same shape and dtype."""
        if x.ndim not in (3, 4) or x.shape[-1] != self.inner // EXPAND:
            raise ShapeError(
                "a Mamba block wants [B, L, D] or [B, h, w, D] with D = "
                f"{self.inner // EXPAND}; got {list(x.shape)}."
            )
        if x.ndim == 3 and self.scan == "columns":
            raise ShapeError('scan="columns" needs a grid [B, h, w, D]; a sequence has no columns.')
        if x.ndim == 4 and self.scan == "columns":
            return self._residual(x.transpose(1, 2)).transpose(1, 2)
        return self._residual(x)

    def _residual(self, x: Tensor) -> Tensor:
        sizes = [self.inner, self.inner, 4 * self.state_size, 2 * self.heads]
        gate, inner, maps, dt = self.in_proj(self.norm(x)).split(sizes, -1)
        inner = F.silu(self._convolve(inner)).flatten(1, -2)  # [B, L, H * P]
        mixed = self._scan(inner, maps.flatten(1, -2), dt.flatten(1, -2)).view(gate.shape)
        return x + self.out_proj(self.inner_norm(mixed) * F.silu(gate))

    def _convolve(self, x: Tensor) -> Tensor:
        if x.ndim == 3:  # the middle row of the kernel is the 3-tap filter of a sequence
            return self._convolve(x[:, None]).squeeze(1)
        weight = self.conv.weight
        if self.scan == "columns":  # the grid came transposed: so must the kernel
            weight = weight.mT
        x = x.permute(0, 3, 1, 2)  # channels last in memory, as the convolution likes it
        return F.conv2d(x, weight, self.conv.bias, padding=1, groups=self.inner).permute(0, 2, 3, 1)

    def _scan(self, x: Tensor, maps: Tensor, dt: Tensor) -> Tensor:
        """x [B, L, H * P], maps [B, L, 4 N], dt [B, L, 2 H] to [B, L, H * P]."""
        with autocast_off(x.device):
            b, c = maps.float().unflatten(-1, (2, 2, self.state_size)).unbind(2)
            dt = F.softplus(dt.float().unflatten(-1, (self.heads, 2)) + self.dt_bias.float())
            x = x.float().unflatten(-1, (self.heads, -1))
            y = bidirectional_scan(x, dt, -self.a_log.float().exp(), b, c)
            y = 0.5 * y + self.skip.float()[:, None] * x
        return y.flatten(-2).to(maps.dtype)


@torch.no_grad()
def start_dynamics(dt_bias: Tensor, a_log: Tensor, skip: Tensor) -> None:
    """Mamba-2's starting step sizes, decay rates and way around the scan, any shapes."""
    low, high = (math.log(v) for v in DT_RANGE)
    dt_bias.uniform_(low, high).exp_()
    dt_bias.add_(dt_bias.neg().expm1().neg().log())  # inverse of softplus
    a_log.uniform_(*A_RANGE).log_()
    skip.fill_(1.0)
