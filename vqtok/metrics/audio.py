"""Distortion of sound: mel and STFT distances, SI-SDR, and the speech scores PESQ and STOI.

Sounds are float in about [-1, 1], [B, C, T] or [C, T], the reconstruction first. Every function
gives one number for each sound, [B] float32 ([1] for [C, T]); channels are averaged.
"""

import importlib.util
import math
import warnings

import torch
from torch import Tensor

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics.spectra import mel_difference, stft_difference

PESQ_RATES_HZ = (8000, 16_000)  # narrow band, wide band
STOI_LEAST_SECONDS = 0.39  # it wants 30 frames, 0.397 s; pystoi fails on less than one of them


def mel_distance(ours: Tensor, theirs: Tensor, sample_rate_hz: int) -> Tensor:
    """Mean over seven mel scales of the mean |log10 difference|; 0 is equal, silence is near 3.

    Windows of 32 to 2048 samples and 5 to 320 Slaney mel bins, Hann, hop a quarter, magnitudes at
    least 1e-5. The DAC paper sums the scales: its number is seven times this one.

    Source: Kumar et al. 2023, arXiv 2306.06546, section 3.6.
    """
    return mel_difference(*_pair(ours, theirs), sample_rate_hz)


def stft_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Spectral convergence plus mean |ln difference|, mean of windows 512, 1024 and 2048.

    Source: Yamamoto et al. 2020, arXiv 1910.11480, equations 4 to 6.
    """
    convergence, distance = stft_difference(*_pair(ours, theirs))
    return convergence + distance


def si_sdr(ours: Tensor, theirs: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB: the waveform's, phase included.

    Differentiable. Means are not subtracted, so an offset counts as distortion.

    Source: Le Roux et al. 2019, arXiv 1811.02508, equation 4; torchmetrics' implementation.
    """
    ours, theirs = _pair(ours, theirs)
    # torchmetrics is slow to import
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    return scale_invariant_signal_distortion_ratio(ours, theirs).mean(1)


def pesq(ours: Tensor, theirs: Tensor, sample_rate_hz: int) -> Tensor:
    """PESQ, 1 to 4.64: wide band (ITU-T P.862.2) at 16 kHz, narrow band (P.862) at 8 kHz.

    A sound in which PESQ finds no speech, or of less than a quarter of a second, is NaN; so is one
    that came back as nothing but zeros.

    Raises:
        ConfigError: the package `pesq` is not installed, or another rate (resample first).
    """
    _want("pesq")
    if sample_rate_hz not in PESQ_RATES_HZ:
        raise ConfigError(
            f"PESQ is defined at 8,000 and 16,000 Hz; got {sample_rate_hz}: resample both sounds "
            "first, with torchaudio.functional.resample."
        )
    from pesq import BufferTooShortError, NoUtterancesError
    from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality

    mode = "wb" if sample_rate_hz == 16_000 else "nb"

    def score(one: Tensor, other: Tensor) -> float:
        if not one.any():  # pesq divides by its power
            return math.nan
        try:
            return perceptual_evaluation_speech_quality(one, other, sample_rate_hz, mode).item()
        except (NoUtterancesError, BufferTooShortError):
            return math.nan

    return _each(score, ours, theirs)


def stoi(ours: Tensor, theirs: Tensor, sample_rate_hz: int) -> Tensor:
    """Short-time objective intelligibility, about 0 to 1, at any rate.

    A sound with less than 0.4 seconds that are not silent is NaN.

    Raises:
        ConfigError: the package `pystoi` is not installed.

    Source: Taal et al. 2011, "An algorithm for intelligibility prediction".
    """
    _want("pystoi")
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

    def score(one: Tensor, other: Tensor) -> float:
        if other.shape[-1] < STOI_LEAST_SECONDS * sample_rate_hz:
            return math.nan
        # pystoi warns where there is too little sound, and gives 1e-5
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
            try:
                return short_time_objective_intelligibility(one, other, sample_rate_hz).item()
            except RuntimeWarning:
                return math.nan

    return _each(score, ours, theirs)


def _each(score, ours: Tensor, theirs: Tensor) -> Tensor:
    """`score` of every channel on the CPU, averaged: [B]; silence is NaN, without being asked."""
    ours, theirs = (sounds.detach().cpu() for sounds in _pair(ours, theirs))
    scores = [
        [score(one, other) if other.any() else math.nan for one, other in zip(*pair, strict=True)]
        for pair in zip(ours, theirs, strict=True)
    ]
    return torch.tensor(scores).mean(1)


def _want(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"this score wants the package {package}, which is not installed: "
            f"pip install {package}, or vqtok[audio-metrics]."
        )


def _pair(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32 [B, C, T]."""
    if ours.shape != theirs.shape or ours.ndim not in (2, 3) or 0 in ours.shape:
        raise ShapeError(
            "two sounds must have one shape, [B, C, T] or [C, T], with no axis of 0; "
            f"got {list(ours.shape)} and {list(theirs.shape)}."
        )
    if not (ours.is_floating_point() and theirs.is_floating_point()):
        raise ShapeError(f"sounds must be float in [-1, 1]; got {ours.dtype} and {theirs.dtype}.")
    ours, theirs = ours.float(), theirs.float()
    return (ours, theirs) if ours.ndim == 3 else (ours[None], theirs[None])
