"""Layers along time that run on a whole signal or on its pieces with the same result.

A layer sees `left` steps before and `right` steps after what it puts out; beyond the ends of the
signal it sees zeros. `forward` takes a whole signal, `step` the next piece of one: it keeps what
the pieces to come need as `state`, holds back outputs whose future has not come yet, and gives
them when the `last` piece is there. A causal layer has `right = 0` and holds nothing back.

Shapes: B batch, T steps, D channels last.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.errors import ShapeError

Step = tuple[Tensor | None, Any]


class TimeLayer(nn.Module):
    """Base: a subclass writes `valid`, which takes the context with the signal.

    Attributes:
        left: input steps of context before an output's own.
        right: after it.
        stride: input steps for every output (or group of outputs).
    """

    left = 0
    right = 0
    stride = 1

    def valid(self, x: Tensor) -> Tensor:
        """[B, left + n stride + right, D] to the n outputs (or groups) whose context is there."""
        raise NotImplementedError(f"{type(self).__name__} must define valid.")

    def forward(self, x: Tensor) -> Tensor:
        """A whole signal [B, T, D], T a multiple of the stride."""
        if x.shape[1] % self.stride:
            raise ShapeError(
                f"{type(self).__name__} wants T a multiple of {self.stride}; got {x.shape[1]}."
            )
        return self.valid(F.pad(x, (0, 0, self.left, self.right)))

    def step(self, x: Tensor | None, state: Tensor | None, last: bool) -> Step:
        """The next steps of a signal, and the state that the piece before left.

        Args:
            x: [B, t, D]; None: no steps are there yet.
            state: None at the start of a signal.
            last: the signal ends here.

        Returns:
            outputs, or None while their future is missing; and the state for the next piece.
        """
        if x is None and (state is None or not last):
            return None, state
        if state is None:
            state = x.new_zeros(x.shape[0], self.left, x.shape[2])
        x = state if x is None else torch.cat([state, x], 1)
        if last:
            x = F.pad(x, (0, 0, 0, self.right))
        groups = (x.shape[1] - self.left - self.right) // self.stride
        if groups <= 0:
            return None, x
        used = groups * self.stride
        # a copy: a view would keep the whole piece in memory until the next one
        return self.valid(x[:, : used + self.left + self.right]), x[:, used:].clone()


class Chain(nn.Sequential):
    """Layers one after the other; those without a `step` look at every time by itself."""

    def step(self, x: Tensor | None, states: list | None, last: bool) -> Step:
        """As `TimeLayer.step`; the state is a list, one entry a layer."""
        states = [None] * len(self) if states is None else list(states)
        for index, layer in enumerate(self):
            if hasattr(layer, "step"):
                x, states[index] = layer.step(x, states[index], last)
            elif x is not None:
                x = layer(x)
        return x, states


def split_context(context: int, causal: bool) -> tuple[int, int]:
    """(left, right): all of it before where causal, else half on each side."""
    return (context, 0) if causal else (context - context // 2, context // 2)


class FramesFromSteps(TimeLayer):
    """[B, T, C] to [B, T / stride, D]: a linear map of overlapping windows (a strided conv)."""

    def __init__(self, channels: int, width: int, stride: int, window: int, causal: bool):
        super().__init__()
        self.stride, self.window = stride, window
        self.left, self.right = split_context(window - stride, causal)
        self.proj = nn.Linear(channels * window, width, bias=False)

    def valid(self, x: Tensor) -> Tensor:
        return self.proj(x.unfold(1, self.window, self.stride).flatten(2))  # [B, n, C window]


class StepsFromFrames(TimeLayer):
    """[B, T, D] to [B, T stride, C]: every frame adds to the steps of its neighbours too.

    The transposed convolution of `reach` frames' length, written as a linear map of `reach`
    neighbouring frames to the steps of one.
    """

    def __init__(self, width: int, channels: int, upsample: int, reach: int, causal: bool):
        super().__init__()
        self.channels, self.reach = channels, reach
        self.left, self.right = split_context(reach - 1, causal)
        self.proj = nn.Linear(width * reach, channels * upsample, bias=False)

    def valid(self, x: Tensor) -> Tensor:
        steps = self.proj(x.unfold(1, self.reach, 1).flatten(2))
        return steps.view(x.shape[0], -1, self.channels)


class RMSNorm(nn.Module):
    """Root mean square 1 over the channels, in float32; silence stays silence."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


class ConvBlock(TimeLayer):
    """Depthwise convolution over time, then an MLP, residual (ConvNeXt, arXiv 2201.03545).

    Fresh blocks are the identity: the last matrix starts at zero.
    """

    def __init__(self, width: int, kernel: int, causal: bool, expansion: int = 2):
        super().__init__()
        self.left, self.right = split_context(kernel - 1, causal)
        self.taps = nn.Parameter(torch.empty(kernel, width))
        self.norm = RMSNorm(width)
        self.spread = nn.Linear(width, width * expansion)
        self.gather = nn.Linear(width * expansion, width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.taps, std=len(self.taps) ** -0.5)
        self.norm.reset_parameters()
        self.spread.reset_parameters()
        nn.init.zeros_(self.gather.weight)

    def valid(self, x: Tensor) -> Tensor:
        steps = x.shape[1] - self.left - self.right
        mixed = x[:, :steps] * self.taps[0]
        for offset in range(1, len(self.taps)):
            mixed = torch.addcmul(mixed, x[:, offset : offset + steps], self.taps[offset])
        update = self.gather(F.silu(self.spread(self.norm(mixed))))
        return x[:, self.left : self.left + steps] + update
