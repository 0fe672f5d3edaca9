"""A causal Mamba-2 block for signals that come in chunks: what it carries on has a fixed size.

    x ─ norm ─ in_proj ─┬─ conv ─ silu ─ scan ─ + D x ─ norm ─┐
                        ├─ dt, b, c                           × ─ out_proj ─ + x
                        └─ gate ─ silu ───────────────────────┘

Source: Dao and Gu 2024 (Mamba-2), arXiv 2405.21060. As in `BidirectionalMambaBlock` the convolution
runs over the scan's input alone, and one b and one c serve all heads.

Shapes: B batch, T frames, D width, H heads, P channels a head, N state size.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.devices import autocast_off
from vqtok.errors import ConfigError, ShapeError
from vqtok.nn.time_layers import RMSNorm
from vqtok.nn.vision_mamba import EXPAND, start_dynamics
from vqtok.ops.scan import state_space_scan

TAPS = 4  # of the convolution, as in Mamba

# the last inputs of the convolution [B, TAPS - 1, H * P] and the scan's state [B, H, P, N]
State = tuple[Tensor, Tensor]


class CausalMambaBlock(nn.Module):
    """Residual block: pre-norm and a Mamba-2 mixer; a frame sees itself and all before it.

    Silence (zeros) before a signal changes nothing: nothing before the convolution has a bias, and
    what the scan meets of silence adds nothing to its state.

    Args:
        width: D.
        state_size: N of every head.

    Raises:
        ConfigError: a size below 1.
    """

    def __init__(self, width: int, state_size: int = 16):
        super().__init__()
        if width < 1 or state_size < 1:
            raise ConfigError(
                "a Mamba block wants width >= 1 and state_size >= 1; "
                f"got width={width}, state_size={state_size}."
            )
        inner = EXPAND * width
        self.width, self.state_size, self.heads = width, state_size, inner // math.gcd(inner, 64)
        self.sizes = [inner, inner, 2 * state_size, self.heads]  # gate, scan input, maps, dt
        self.norm = RMSNorm(width)
        self.in_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.conv = nn.Conv1d(inner, inner, TAPS, groups=inner)
        self.dt_bias = nn.Parameter(torch.empty(self.heads, dtype=torch.float32))
        self.a_log = nn.Parameter(torch.empty(self.heads, dtype=torch.float32))
        self.skip = nn.Parameter(torch.empty(self.heads, dtype=torch.float32))
        self.inner_norm = RMSNorm(inner)
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
        """A whole signal [B, T, D] to the same shape and dtype."""
        return self.step(x, None, last=True)[0]

    def step(
        self, x: Tensor | None, state: State | None, last: bool
    ) -> tuple[Tensor | None, State | None]:
        """The next frames of a signal, as `vqtok.nn.time_layers.TimeLayer.step`.

        Args:
            x: [B, t, D] with any t, also 0; None: no frames are there yet.
            state: what the step before gave; None at the start.
            last: the signal ends here; nothing was held back, so nothing more comes out.

        Returns:
            [B, t, D], dtype of x, or None for None; and the state for the next step.

        Raises:
            ShapeError: another width or number of axes, or the state of another batch.
        """
        if x is None:
            return None, state
        if x.ndim != 3 or x.shape[2] != self.width:
            raise ShapeError(
                f"a Mamba block wants [B, T, {self.width}]; got {list(x.shape)} {x.dtype}."
            )
        gate, inner, maps, dt = self.in_proj(self.norm(x)).split(self.sizes, -1)
        if state is None:
            tail = inner.new_zeros(x.shape[0], TAPS - 1, inner.shape[2])
            scanned = None
        else:
            tail, scanned = state
            if tail.shape[0] != x.shape[0]:
                raise ShapeError(f"this state is of a batch of {tail.shape[0]}; {x.shape[0]} came.")
        inner = torch.cat([tail, inner], 1)
        mixed, scanned = self._scan(F.silu(self._convolve(inner)), maps, dt, scanned)
        y = x + self.out_proj(self.inner_norm(mixed) * F.silu(gate))
        # a copy: a view would keep the whole chunk in memory
        return y, (inner[:, x.shape[1] :].clone(), scanned)

    def _convolve(self, x: Tensor) -> Tensor:
        """[B, TAPS - 1 + T, H * P] to [B, T, H * P]."""
        if x.shape[1] < TAPS:  # torch refuses an empty output
            return x[:, : x.shape[1] - TAPS + 1]
        return self.conv(x.mT).mT

    def _scan(
        self, x: Tensor, maps: Tensor, dt: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, H * P], maps [B, T, 2 N], dt [B, T, H] to [B, T, H * P] and the state."""
        with autocast_off(x.device):
            b, c = maps.float().unflatten(-1, (2, 1, self.state_size)).unbind(2)  # [B, T, 1, N]
            dt = F.softplus(dt.float() + self.dt_bias.float())
            x = x.float().unflatten(-1, (self.heads, -1))
            a = -self.a_log.float().exp()
            y, state = state_space_scan(x, dt, a, b, c, initial_state=state, return_state=True)
            y = y + self.skip.float()[:, None] * x
        return y.flatten(-2).to(maps.dtype), state
