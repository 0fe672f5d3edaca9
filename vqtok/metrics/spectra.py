"""Short-time spectra of sound, differentiable, and the two distances that are built on them.

Shapes: `waveform` [..., T], any float dtype; spectra [..., F, frames] with F = window // 2 + 1 and
frames = T // hop + 1. All arithmetic is float32, outside autocast.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vqtok.devices import autocast_off
from vqtok.errors import ConfigError, ShapeError

LOG_FLOOR = 1e-5  # magnitudes below count as this: -100 dB of a spectrum that peaks at 1
MEL_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
STFT_WINDOWS = (512, 1024, 2048)
KNEE_HZ, KNEE_MEL = 1000.0, 15.0  # Slaney's scale: 200/3 Hz a mel up to here,
LOG_STEP = math.log(6.4) / 27  # then this natural logarithm a mel
SAMPLES_PER_MEL = 6.4  # of a window: 5 mel bins at 32 samples, 320 at 2048


def spectrum(waveform: Tensor, window: int, hop: int) -> Tensor:
    """Complex spectrum [..., F, frames]: Hann window, frames centered on multiples of the hop.

    The ends are mirrored without repeating the last sample; a sound shorter than half a window is
    mirrored again and again, and a single sample repeated.

    Raises:
        ConfigError: not 1 <= hop <= window, or a window of one sample.
        ShapeError: no samples, or not float.
    """
    _check_window(window, hop)
    if not waveform.is_floating_point() or waveform.ndim < 1 or waveform.shape[-1] < 1:
        raise ShapeError(
            "a spectrum wants a float waveform [..., T] with T at least 1; "
            f"got {waveform.dtype} {list(waveform.shape)}."
        )
    lead = waveform.shape[:-1]
    with autocast_off(waveform.device):
        rows = waveform.float().reshape(-1, waveform.shape[-1])
        rows = mirror(rows, window // 2, window // 2)
        hann = _hann(window, waveform.device)
        out = torch.stft(rows, window, hop, window=hann, center=False, return_complex=True)
    return out.reshape(*lead, *out.shape[-2:])


def magnitudes(waveform: Tensor, window: int, hop: int) -> Tensor:
    """|spectrum|, float32 [..., F, frames]; its gradient is 0 where the magnitude is."""
    return spectrum(waveform, window, hop).abs()


def mirror(rows: Tensor, left: int, right: int) -> Tensor:
    """[N, T] to [N, left + T + right], mirrored at both ends as often as it takes."""
    samples = rows.shape[-1]
    if max(left, right) < samples:
        return F.pad(rows, (left, right), mode="reflect")
    if samples == 1:
        return rows.expand(-1, left + 1 + right)
    period = 2 * (samples - 1)
    index = torch.arange(-left, samples + right, device=rows.device) % period
    return rows[:, torch.where(index < samples, index, period - index)]


def mel_filters(
    sample_rate_hz: int, window: int, mels: int, device: str | torch.device = "cpu"
) -> Tensor:
    """Triangular filters [F, mels] from 0 Hz to half the rate; cached, so do not write to them.

    Slaney's scale (linear to 1 kHz, then logarithmic) and norm (each triangle has area 1 in Hz).
    With few frequencies to a window, a narrow filter may lie between two of them: its column is
    zero, and so is its band of every sound.

    Raises:
        ConfigError: a rate, window or number of bins below 1.

    Source: Slaney 1998, Auditory Toolbox; the numbers are librosa's and torchaudio's.
    """
    if min(sample_rate_hz, mels) < 1 or window < 2:
        raise ConfigError(
            "mel filters want sample_rate_hz and mels at least 1 and window at least 2; "
            f"got {sample_rate_hz}, {mels} and {window}."
        )
    return _mel_filters(sample_rate_hz, window, mels, torch.device(device))


def mel_bins(window: int) -> int:
    """Mel bins of a window of the multi-scale distance: 5 at 32 samples, 320 at 2048."""
    return max(1, round(window / SAMPLES_PER_MEL))


def log_mel(waveform: Tensor, sample_rate_hz: int, window: int, mels: int) -> Tensor:
    """log10 of the mel magnitudes, at least -5: float32 [..., mels, frames]; hop a quarter."""
    size = magnitudes(waveform, window, max(1, window // 4))
    filters = mel_filters(sample_rate_hz, window, mels, size.device)
    with autocast_off(size.device):
        return (filters.T @ size).clamp(min=LOG_FLOOR).log10()


def mel_difference(
    ours: Tensor, theirs: Tensor, sample_rate_hz: int, windows: Sequence[int] = MEL_WINDOWS
) -> Tensor:
    """Mean over the scales of mean |log_mel difference|: [N, ..., T] twice to [N].

    No gradient reaches `theirs`. Source: Kumar et al. 2023 (DAC), arXiv 2306.06546, section 3.6;
    they sum the scales.
    """
    total = ours.new_zeros(ours.shape[0], dtype=torch.float32)
    for window in windows:
        scale = (sample_rate_hz, window, mel_bins(window))
        with torch.no_grad():
            wanted = log_mel(theirs, *scale)
        total = total + (log_mel(ours, *scale) - wanted).abs().flatten(1).mean(1)
    return total / len(windows)


def stft_difference(
    ours: Tensor, theirs: Tensor, windows: Sequence[int] = STFT_WINDOWS
) -> tuple[Tensor, Tensor]:
    """Spectral convergence and log magnitude distance, means over the scales: [N, ..., T] to [N].

    The first is |M(x) - M(y)| / |M(y)| with the lengths of the whole spectra, the second the mean
    |ln M(x) - ln M(y)|. No gradient reaches `theirs`.

    Source: Yamamoto et al. 2020 (Parallel WaveGAN), arXiv 1910.11480, equations 4 to 6; here the
    window is as long as the FFT and the hop a quarter of it.
    """
    convergence = distance = ours.new_zeros(ours.shape[0], dtype=torch.float32)
    for window in windows:
        hop = max(1, window // 4)
        with torch.no_grad():
            wanted = magnitudes(theirs, window, hop).flatten(1)
        size = magnitudes(ours, window, hop).flatten(1)
        # the floor is the length of a spectrum that is LOG_FLOOR everywhere
        length = wanted.norm(dim=1).clamp(min=LOG_FLOOR * wanted.shape[1] ** 0.5)
        convergence = convergence + (size - wanted).norm(dim=1) / length
        logs = size.clamp(min=LOG_FLOOR).log() - wanted.clamp(min=LOG_FLOOR).log()
        distance = distance + logs.abs().mean(1)
    return convergence / len(windows), distance / len(windows)


def _check_window(window: int, hop: int) -> None:
    if not 1 <= hop <= window or window < 2:
        raise ConfigError(f"a spectrum wants 1 <= hop <= window, window >= 2; got {hop}, {window}.")


# Constants are made outside inference mode: a loss may be the next to ask for them.


@functools.lru_cache(maxsize=64)
def _hann(window: int, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.hann_window(window, device=device)


@functools.lru_cache(maxsize=64)
def _mel_filters(sample_rate_hz: int, window: int, mels: int, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        top = sample_rate_hz / 2
        bins = torch.linspace(0, top, window // 2 + 1, dtype=torch.float64)
        highest = _hz_to_mel(torch.tensor(top, dtype=torch.float64))
        corners = _mel_to_hz(torch.linspace(0, 1, mels + 2, dtype=torch.float64) * highest)
        low, center, high = corners[:-2], corners[1:-1], corners[2:]
        rising = (bins[:, None] - low) / (center - low)
        falling = (high - bins[:, None]) / (high - center)
        triangles = torch.minimum(rising, falling).clamp(min=0)
        return (triangles * 2 / (high - low)).float().to(device)


def _hz_to_mel(hz: Tensor) -> Tensor:
    above = KNEE_MEL + (hz.clamp(min=KNEE_HZ) / KNEE_HZ).log() / LOG_STEP
    return torch.where(hz < KNEE_HZ, hz * KNEE_MEL / KNEE_HZ, above)


def _mel_to_hz(mel: Tensor) -> Tensor:
    above = KNEE_HZ * ((mel - KNEE_MEL).clamp(min=0) * LOG_STEP).exp()
    return torch.where(mel < KNEE_MEL, mel * KNEE_HZ / KNEE_MEL, above)
