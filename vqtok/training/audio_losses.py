"""Reconstruction losses of sound, for the `losses` section of a recipe.

    losses: {mel: {weight: 1, sample_rate_hz: 16000}, complex_stft: 0.5, waveform: 0.1}

All take (reconstruction, target), float [B, C, T], and give a float32 scalar; arithmetic is
float32 outside autocast, and no gradient reaches the target.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vqtok.devices import autocast_off
from vqtok.errors import ConfigError
from vqtok.metrics.audio import si_sdr
from vqtok.metrics.spectra import (
    MEL_WINDOWS,
    STFT_WINDOWS,
    mel_difference,
    spectrum,
    stft_difference,
)

SMALLEST_MAGNITUDE = 1e-4  # of a spectral value whose phase matters; bounds the power law's slope


class MelLoss(nn.Module):
    """`vqtok.metrics.audio.mel_distance` as a loss; fewer `windows` are faster and coarser.

    On one CPU thread, forward and backward of [4, 1, 32000] at 16 kHz take 87 ms with all seven
    windows, 33 with 64, 256 and 1024 samples, 11 with 512 alone.
    """

    def __init__(self, sample_rate_hz: int, windows: Sequence[int] = MEL_WINDOWS):
        super().__init__()
        if sample_rate_hz < 1:
            raise ConfigError(f"losses.mel wants sample_rate_hz above 0; got {sample_rate_hz}.")
        self.sample_rate_hz, self.windows = sample_rate_hz, _checked_windows(windows, "mel")

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return mel_difference(reconstruction, target, self.sample_rate_hz, self.windows).mean()


class STFTLoss(nn.Module):
    """Spectral convergence plus log magnitude distance of magnitudes, mean over the windows.

    The batch counts as one sound, so that a silent one among its rows does not rule it.
    """

    def __init__(self, windows: Sequence[int] = STFT_WINDOWS):
        super().__init__()
        self.windows = _checked_windows(windows, "stft")

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        convergence, distance = stft_difference(reconstruction[None], target[None], self.windows)
        return (convergence + distance).sum()


class ComplexSTFTLoss(nn.Module):
    """Squared error of spectra whose magnitudes are compressed by a power, with and without phase.

    Compression makes quiet bands count as ears do. With X' = |X|^power and the phase of X kept,
    a frequency costs (1 - phase) (|X'| - |Y'|)^2 + phase |X' - Y'|^2.

    Args:
        windows: in samples; the hop is a quarter.
        power: 1 is no compression.
        phase: share of the complex part, 0 to 1.

    Source: Braun and Tashev 2020, arXiv 2009.12286, equation 5, with their 0.3 for both; the mean
    over windows is ours.
    """

    def __init__(self, windows: Sequence[int] = (512,), power: float = 0.3, phase: float = 0.3):
        super().__init__()
        if not 0 < power <= 1 or not 0 <= phase <= 1:
            raise ConfigError(
                "losses.complex_stft wants power above 0 and at most 1, and phase in 0 to 1; "
                f"got {power} and {phase}."
            )
        self.windows = _checked_windows(windows, "complex_stft")
        self.power, self.phase = power, phase

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        total = reconstruction.new_zeros((), dtype=torch.float32)
        for window in self.windows:
            with torch.no_grad():
                wanted, wanted_size = self._compressed(target, window)
            ours, size = self._compressed(reconstruction, window)
            apart = (ours - wanted).square().sum(-1).mean()
            total = total + self.phase * apart
            total = total + (1 - self.phase) * (size - wanted_size).square().mean()
        return total / len(self.windows)

    def _compressed(self, waveform: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts [..., 2], and the magnitude, of the compressed spectrum."""
        # scaled so that a full-scale tone has magnitude 1 whatever the window
        parts = torch.view_as_real(spectrum(waveform, window, max(1, window // 4))) * (4 / window)
        size = (parts.square().sum(-1) + SMALLEST_MAGNITUDE**2).sqrt()
        shrunk = size.pow(self.power - 1)
        return parts * shrunk[..., None], size * shrunk


class SISDRLoss(nn.Module):
    """Minus the mean SI-SDR of the sounds, in units of 10 dB, as the loss `psnr` is of images.

    A codec's SI-SDR says little of how it sounds; a small weight keeps the waveform in place.
    """

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        with autocast_off(reconstruction.device):
            return -si_sdr(reconstruction, target.detach()).mean() / 10


def _checked_windows(windows: Sequence[int], name: str) -> tuple[int, ...]:
    windows = tuple(windows)
    if not windows or not all(isinstance(w, int) and w >= 4 for w in windows):
        raise ConfigError(
            f"losses.{name}.windows lists lengths in samples, each at least 4; got {windows}."
        )
    return windows
