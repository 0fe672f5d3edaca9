"""Discriminators of sound and the adversary that plays with them.

    losses: {mel: {weight: 15, sample_rate_hz: 16000},
             adversarial_audio: {weight: 1, discriminators: [mpd, msstft], feature_matching: 2}}

`mpd` looks at the waveform folded by prime periods, `msstft` at complex spectra of several
windows: the first hears pitch and pulses, the second bands and noise. Shapes: [B, C, T] float.

Sources: Kong et al. 2020 (HiFi-GAN), arXiv 2010.05646, section 2.3 (multi-period); Défossez et
al. 2022 (EnCodec), arXiv 2210.13438, section 3.4 (multi-scale STFT, hinge, feature matching).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics.spectra import mirror, spectrum
from vqtok.training.adversarial import Adversary, Judgement

PERIODS = (2, 3, 5, 7, 11)
WINDOWS = (2048, 1024, 512, 256, 128)


def _conv(inputs: int, outputs: int, kernel: tuple[int, int], **options) -> nn.Module:
    """A weight-normed convolution that keeps the size where the stride is 1."""
    dilation = options.get("dilation", (1, 1))
    padding = tuple((k - 1) // 2 * d for k, d in zip(kernel, dilation, strict=True))
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, padding=padding, **options))


class PeriodDiscriminator(nn.Module):
    """The waveform folded to [B, C, T / period, period], convolved along time only."""

    SLOPE = 0.1

    def __init__(self, period: int, channels: int = 1, width: int = 32):
        super().__init__()
        self.period = period
        widths = [channels, width, 4 * width, 16 * width, 32 * width]
        layers = [_conv(a, b, (5, 1), stride=(3, 1)) for a, b in itertools.pairwise(widths)]
        layers.append(_conv(widths[-1], widths[-1], (5, 1)))
        self.layers = nn.ModuleList(layers)
        self.last = _conv(widths[-1], 1, (3, 1))

    def forward(self, sound: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, C, T] to logits [B, 1, t, period] and the features of every layer."""
        batch, channels, samples = sound.shape
        rows = mirror(sound.flatten(0, 1), 0, -samples % self.period)
        x = rows.reshape(batch, channels, -1, self.period)
        return _through(x, self.layers, self.last, self.SLOPE)


class STFTDiscriminator(nn.Module):
    """Complex spectra of one window as images [B, 2 C, frames, F], dilated along time."""

    SLOPE = 0.2

    def __init__(self, window: int, channels: int = 1, width: int = 32):
        super().__init__()
        self.window = window
        layers = [_conv(2 * channels, width, (3, 9))]
        for dilation in (1, 2, 4):
            layers.append(_conv(width, width, (3, 9), stride=(1, 2), dilation=(dilation, 1)))
        layers.append(_conv(width, width, (3, 3)))
        self.layers = nn.ModuleList(layers)
        self.last = _conv(width, 1, (3, 3))

    def forward(self, sound: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[B, C, T] to logits [B, 1, frames, f] and the features of every layer."""
        # divided by the window's length (root of its sum of squares), so that noise comes out
        # as loud as it went in
        values = spectrum(sound, self.window, self.window // 4) / (self.window * 3 / 8) ** 0.5
        x = torch.cat([values.real, values.imag], 1).transpose(2, 3)
        return _through(x, self.layers, self.last, self.SLOPE)


class MultiDiscriminator(nn.Module):
    """Several discriminators side by side: [B, C, T] to all their logits and features."""

    def __init__(self, members: Sequence[nn.Module], channels: int):
        super().__init__()
        self.members, self.channels = nn.ModuleList(members), channels

    def forward(self, sound: Tensor) -> Judgement:
        if sound.ndim != 3 or sound.shape[1] != self.channels:
            raise ShapeError(
                f"this discriminator wants sound [B, {self.channels}, T]; "
                f"got {list(sound.shape)}: set losses.adversarial_audio.channels."
            )
        logits, features = [], []
        for member in self.members:
            ours, inner = member(sound)
            logits.append(ours)
            features += inner
        return Judgement(logits, features)


class AudioAdversarialLoss(Adversary):
    """Multi-period and multi-scale STFT discriminators as an adversary; see `Adversary`.

    Args:
        discriminators: of "mpd" and "msstft".
        width: filters of each one's first layer; 32 is both papers': 41 million weights with mpd,
            0.5 with msstft. On one CPU thread both sides of the game on [4, 1, 32000] take a
            minute with mpd and half of one with msstft; at width 4 half a second and 1.4.
        channels: of the sound.
        periods: of mpd, in samples.
        windows: of msstft, in samples, each a multiple of 4.
        adaptive: see `Adversary`; a balancer in the recipe does the same and wants it off.
    """

    def __init__(
        self,
        discriminators: Sequence[str] = ("mpd", "msstft"),
        width: int = 32,
        start_step: int = 0,
        lr: float = 3e-4,
        adaptive: bool = False,
        lecam: float = 0.0,
        feature_matching: float = 2.0,
        channels: int = 1,
        periods: Sequence[int] = PERIODS,
        windows: Sequence[int] = WINDOWS,
    ):
        kinds = set(discriminators)
        if not kinds or not kinds <= {"mpd", "msstft"} or len(kinds) < len(discriminators):
            raise ConfigError(
                "losses.adversarial_audio.discriminators lists mpd, msstft or both; "
                f"got {discriminators}."
            )
        if width < 1 or channels < 1:
            raise ConfigError(
                f"adversarial_audio wants width and channels at least 1; got {width}, {channels}."
            )
        members: list[nn.Module] = []
        if "mpd" in kinds:
            members += [
                PeriodDiscriminator(p, channels, width) for p in _checked("periods", periods, 1)
            ]
        if "msstft" in kinds:
            members += [
                STFTDiscriminator(w, channels, width) for w in _checked("windows", windows, 4)
            ]
        discriminator = MultiDiscriminator(members, channels)
        super().__init__(discriminator, start_step, lr, adaptive, lecam, feature_matching)

    def judge(self, samples: Tensor) -> Judgement:
        return self.discriminator(samples)


def _through(
    x: Tensor, layers: nn.ModuleList, last: nn.Module, slope: float
) -> tuple[Tensor, list[Tensor]]:
    features = []
    for layer in layers:
        x = nn.functional.leaky_relu(layer(x), slope)
        features.append(x)
    return last(x), features


def _checked(name: str, values: Sequence[int], unit: int) -> Sequence[int]:
    if not values or not all(isinstance(v, int) and v >= unit and v % unit == 0 for v in values):
        raise ConfigError(
            f"losses.adversarial_audio.{name} lists multiples of {unit}, at least one; "
            f"got {values}."
        )
    return values
