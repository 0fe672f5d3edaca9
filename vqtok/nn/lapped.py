"""Sound to spectral frames and back, as linear maps that a network starts from.

`lapped_cosines` is the modified discrete cosine transform (Princen, Johnson, Bradley 1987): windows
of two hops, a hop apart, whose synthesis gives the signal back exactly. Without lookahead, where
no window may reach past its hop, it is the plain cosine transform of each hop.
`fourier_frames` is the overlap-add of short inverse Fourier transforms (Griffin and Lim 1984).

Both are given as matrices over the window of `FramesFromSteps` and `StepsFromFrames`.
"""

import math

import torch
from torch import Tensor


def lapped_cosines(hop: int, count: int, causal: bool) -> Tensor:
    """[count, 2 hop] float32: the lowest `count` waves, orthonormal across all shifts by a hop."""
    wave = torch.arange(count, dtype=torch.float64)[:, None] + 0.5
    if causal:
        step = torch.arange(hop, dtype=torch.float64) + 0.5
        basis = (2 / hop) ** 0.5 * torch.cos(math.pi / hop * step * (wave - 0.5))
        basis[:1] *= 0.5**0.5
        return torch.cat([torch.zeros_like(basis), basis], 1).float()
    step = torch.arange(2 * hop, dtype=torch.float64) + 0.5
    window = torch.sin(math.pi / (2 * hop) * step)
    phase = math.pi / hop * (step + hop / 2) * wave
    return ((2 / hop) ** 0.5 * window * torch.cos(phase)).float()


def fourier_frames(window: int) -> Tensor:
    """[2 bins, window] float32, bins = window // 2 + 1: what one bin's real, then imaginary, part
    adds to the signal. Hann windows a third apart add up to a constant."""
    bins = window // 2 + 1
    parts = torch.eye(2 * bins, dtype=torch.float64)
    spectra = torch.complex(parts[:, :bins], parts[:, bins:])
    waves = torch.fft.irfft(spectra, n=window, norm="ortho")
    return (waves * torch.hann_window(window, dtype=torch.float64)).float()


def synthesis_weight(waves: Tensor, hop: int, reach: int, left: int, ahead: int) -> Tensor:
    """The weight of `StepsFromFrames.proj` that overlap-adds `waves`.

    Args:
        waves: [D, window], what a frame adds to the signal.
        hop: steps between frames.
        reach: neighbouring frames that a step depends on, `left` of them earlier ones.
        ahead: steps from the start of a frame's window to the start of the frame's own hop.

    Returns:
        [hop, D reach], the input axis ordered as `x.unfold(1, reach, 1).flatten(2)`.
    """
    width, window = waves.shape
    weight = torch.zeros(hop, width, reach)
    for neighbour in range(reach):
        # where the steps of a hop lie in the window of this neighbour of it
        steps = torch.arange(hop) + ahead + (left - neighbour) * hop
        inside = (steps >= 0) & (steps < window)
        weight[inside, :, neighbour] = waves[:, steps[inside]].T
    return weight.flatten(1)
