"""Encoder and decoder of the RVQ codec, on whole signals and on their pieces alike.

    samples ─┬─ lapped cosine transform, companded ────────────(+)─▶ latents
             └─ frames ─ conv blocks ─ down ─ conv blocks ──────┘

    latents ─┬─ expanded, inverse lapped transform ────────────(+)─▶ samples
             └─ conv blocks ─ up ─ conv blocks ─ Fourier frames ─┘

The first path alone is a transform codec of the lowest frequencies, which follows the waveform
from the first training step; the second learns what that cannot do: how loud and how noisy
everything above is. Started without it, training spends its first hours on a sound that has the
right spectrum and no waveform.

Shapes: B batch, C channels, S samples, T frames, D latent width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.models.rvq_codec.configuration_rvq_codec import RVQCodecConfig
from vqtok.nn.causal_mamba import CausalMambaBlock
from vqtok.nn.lapped import fourier_frames, lapped_cosines, synthesis_weight
from vqtok.nn.local_attention import LocalAttentionBlock
from vqtok.nn.time_layers import (
    Chain,
    ConvBlock,
    FramesFromSteps,
    RMSNorm,
    Step,
    StepsFromFrames,
)

KERNEL = 7  # frames that a convolution block sees
REACH = 3  # frames that reach into one hop of the signal, on the way back
HEAD_WIDTH = 64
WINDOW_FRAMES = 64  # that the attention of the middle looks back: 0.9 seconds at 74 frames
COMPAND = 30.0  # latents grow in proportion up to 1/30, from there as their logarithm
LAPPED_SHARE = 0.75  # of the latents
LOUDEST = 7.0  # of a companded latent: e^7 / 60, far above full scale
SPECTRAL_GAIN = 100.0
QUIETEST = 6.0  # a fresh Fourier frame is e^-6 of full scale


class Compand(nn.Module):
    """[..., D] to float32: directions stay, a length L becomes asinh(COMPAND L).

    So a quantizer's error is relative to the loudness, as the ear's is.
    """

    def forward(self, latents: Tensor) -> Tensor:
        latents = latents.float()
        length = latents.norm(dim=-1, keepdim=True) + 1e-6
        return latents * (torch.asinh(COMPAND * length) / length)


class Expand(nn.Module):
    """Inverse of `Compand`, in the dtype that comes."""

    def forward(self, latents: Tensor) -> Tensor:
        companded = latents.float()
        length = companded.norm(dim=-1, keepdim=True) + 1e-6
        gain = torch.sinh(length.clamp(max=LOUDEST)) / (COMPAND * length)
        return (companded * gain).to(latents.dtype)


class SpectralFrames(FramesFromSteps):
    """[B, S, C] to frames of as many numbers, each compressed by asinh: loud and quiet alike."""

    def valid(self, x: Tensor) -> Tensor:
        return torch.asinh(SPECTRAL_GAIN * super().valid(x).float()).to(x.dtype)


def lapped_waves(width: int, channels: int, hop: int) -> int:
    """Waves of every channel that the first path starts with; the rest is left to the second."""
    return min(int(width * LAPPED_SHARE) // channels, hop)  # a hop has no more of them


class LappedFrames(FramesFromSteps):
    """[B, S, C] to the lowest waves of the lapped cosine transform, [B, T, D]."""

    def __init__(self, channels: int, width: int, hop: int, causal: bool):
        super().__init__(channels, width, hop, 2 * hop, causal)
        self.channels, self.causal = channels, causal

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Channels share the width evenly; what is left over starts at zero."""
        waves = lapped_waves(self.proj.out_features, self.channels, self.stride)
        basis = lapped_cosines(self.stride, waves, self.causal).to(self.proj.weight)
        self.proj.weight.zero_()
        for channel in range(self.channels):
            rows = slice(channel * waves, (channel + 1) * waves)
            start = channel * self.window
            self.proj.weight[rows, start : start + self.window] = basis


class LappedSteps(StepsFromFrames):
    """[B, T, D] to [B, S, C]: starts as the inverse of `LappedFrames`."""

    def __init__(self, width: int, channels: int, hop: int, causal: bool):
        super().__init__(width, channels, hop, REACH, causal)
        self.hop, self.width, self.causal = hop, width, causal

    @torch.no_grad()
    def reset_parameters(self) -> None:
        waves = lapped_waves(self.width, self.channels, self.hop)
        basis = lapped_cosines(self.hop, waves, self.causal)
        ahead = self.hop if self.causal else self.hop - self.hop // 2
        weight = torch.zeros(self.hop, self.channels, self.width, REACH)
        one = synthesis_weight(basis, self.hop, REACH, self.left, ahead)
        for channel in range(self.channels):
            span = slice(channel * waves, (channel + 1) * waves)
            weight[:, channel, span] = one.view(self.hop, waves, REACH)
        self.proj.weight.copy_(weight.view_as(self.proj.weight))


class FourierSteps(StepsFromFrames):
    """Frames [B, T, D] to [B, S, C] by magnitude and phase of short Fourier frames.

    Siuzdak 2023 (Vocos), arXiv 2306.00814, section 3.3; the synthesis matrix is learned on.
    """

    def __init__(self, width: int, channels: int, hop: int, causal: bool):
        self.bins = REACH * hop // 2 + 1
        super().__init__(2 * self.bins * channels, channels, hop, REACH, causal)
        self.hop = hop
        self.spectrum = nn.Linear(width, 2 * self.bins * channels)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.spectrum.reset_parameters()
        waves = fourier_frames(REACH * self.hop)
        ahead = (REACH - 1 - self.left) * self.hop
        one = synthesis_weight(waves, self.hop, REACH, self.left, ahead)
        weight = torch.zeros(self.hop, self.channels, self.channels, 2 * self.bins, REACH)
        for channel in range(self.channels):
            weight[:, channel, channel] = one.view(self.hop, 2 * self.bins, REACH)
        self.proj.weight.copy_(weight.view_as(self.proj.weight))

    def valid(self, x: Tensor) -> Tensor:
        parts = self.spectrum(x).float().unflatten(-1, (self.channels, 2, self.bins))
        magnitude = torch.exp(parts[..., 0, :].clamp(max=QUIETEST + 1) - QUIETEST)
        phase = parts[..., 1, :]
        frames = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], -1).flatten(-2)
        return super().valid(frames.to(self.proj.weight.dtype)).float()


class TwoPaths(nn.Module):
    """Sum of two chains; in pieces, whichever is ahead waits for the other."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).float() + self.second(x).float()

    def step(self, x: Tensor | None, state: tuple | None, last: bool) -> Step:
        """As `TimeLayer.step`."""
        states, waiting = state or ((None, None), (None, None))
        outputs, after = [], []
        for path, path_state, held in zip((self.first, self.second), states, waiting, strict=True):
            y, path_state = path.step(x, path_state, last)
            outputs.append(held if y is None else y if held is None else torch.cat([held, y], 1))
            after.append(path_state)
        if any(y is None for y in outputs):
            return None, (after, outputs)
        ready = min(y.shape[1] for y in outputs)
        total = outputs[0][:, :ready].float() + outputs[1][:, :ready].float()
        left_over = [y[:, ready:].clone() for y in outputs]  # a view would keep all in memory
        return (total if ready else None), (after, left_over)


class ToLatents(nn.Linear):
    """The network's share of the latents; none at the start where the first path has its own."""

    def __init__(self, width: int, latent_dim: int, channels: int, hop: int):
        self.taken = lapped_waves(latent_dim, channels, hop) * channels
        super().__init__(width, latent_dim)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.weight[: self.taken].zero_()
        self.bias.zero_()


def conv_blocks(depth: int, width: int, causal: bool) -> list[nn.Module]:
    return [ConvBlock(width, KERNEL, causal) for _ in range(depth)]


class RVQCodecEncoder(nn.Module):
    """Samples [B, C, S] in about [-1, 1] to latents [B, ceil(S / hop), D] float32."""

    def __init__(self, config: RVQCodecConfig):
        super().__init__()
        self.hop, causal = config.hop_samples, config.causal
        first, widths = config.strides[0], config.widths
        layers: list[nn.Module] = [
            SpectralFrames(config.channels, 2 * widths[0], first, 2 * first, causal),
            nn.Linear(2 * widths[0], widths[0]),
            *conv_blocks(config.encoder_depths[0], widths[0], causal),
        ]
        for rate, stride in enumerate(config.strides[1:], 1):
            before, width = widths[rate - 1], widths[rate]
            layers.append(FramesFromSteps(before, width, stride, 2 * stride, causal))
            layers += conv_blocks(config.encoder_depths[rate], width, causal)
        layers += middle_layers(config)
        layers += [
            RMSNorm(widths[-1]),
            ToLatents(widths[-1], config.latent_dim, config.channels, self.hop),
        ]
        lapped = LappedFrames(config.channels, config.latent_dim, self.hop, causal)
        self.paths = TwoPaths(Chain(lapped, Compand()), Chain(*layers))

    def forward(self, samples: Tensor) -> Tensor:
        return self.paths(self.whole_hops(samples).transpose(1, 2))

    def whole_hops(self, samples: Tensor) -> Tensor:
        """Silence at the end, up to a whole number of hops."""
        return F.pad(samples, (0, -samples.shape[-1] % self.hop))


class RVQCodecDecoder(nn.Module):
    """Latents [B, T, D] to samples [B, C, T hop] float32, about [-1, 1]."""

    def __init__(self, config: RVQCodecConfig):
        super().__init__()
        causal, widths, strides = config.causal, config.widths, config.strides
        layers: list[nn.Module] = [
            FramesFromSteps(config.latent_dim, widths[-1], 1, REACH, causal),
            *middle_layers(config),
        ]
        for rate in range(len(strides) - 1, 0, -1):
            layers += conv_blocks(config.decoder_depths[rate], widths[rate], causal)
            layers.append(
                StepsFromFrames(widths[rate], widths[rate - 1], strides[rate], REACH, causal)
            )
        layers += conv_blocks(config.decoder_depths[0], widths[0], causal)
        layers += [
            RMSNorm(widths[0]),
            FourierSteps(widths[0], config.channels, strides[0], causal),
        ]
        lapped = LappedSteps(config.latent_dim, config.channels, config.hop_samples, causal)
        self.paths = TwoPaths(Chain(Expand(), lapped), Chain(*layers))

    def forward(self, latents: Tensor) -> Tensor:
        return self.paths(latents).transpose(1, 2)


def middle_layers(config: RVQCodecConfig) -> list[nn.Module]:
    """What looks further than convolutions, at the rate of the codes."""
    width = config.widths[-1]
    if config.middle == "mamba":
        return [CausalMambaBlock(width) for _ in range(config.middle_depth)]
    if config.middle == "transformer":
        heads = max(1, width // HEAD_WIDTH)
        return [
            LocalAttentionBlock(width, heads, WINDOW_FRAMES, config.causal)
            for _ in range(config.middle_depth)
        ]
    return []
