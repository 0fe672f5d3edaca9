"""What an RVQ codec is made of: rates, strides, presets and the quantizer's arguments."""

import dataclasses
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vqtok.errors import ConfigError
from vqtok.models.presets import check_ranges, from_preset
from vqtok.models.quantizer_config import check_beam, check_quantizer_config

# rates: 74.07, 75 and 86.13 frames a second
PRESETS: dict[str, dict[str, Any]] = {
    "nano": {"widths": [32, 64], "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "16khz": {},
    "24khz": {
        "sample_rate_hz": 24_000,
        "strides": [80, 4],
        "widths": [192, 384],
        "encoder_depths": [3, 4],
        "decoder_depths": [3, 6],
    },
    "44khz": {
        "sample_rate_hz": 44_100,
        "strides": [128, 4],
        "widths": [256, 512],
        "encoder_depths": [3, 4],
        "decoder_depths": [3, 6],
        "quantizer_config": {"kind": "residual", "codebook_size": 1024, "num_codebooks": 9},
    },
}
MIDDLES = ("none", "mamba", "transformer")
MIDDLE_DEPTH = 2
MAX_WIDTH, MAX_DEPTH, MAX_STRIDE, MAX_LEVELS = 8192, 256, 8192, 32


@strict
class RVQCodecConfig(PreTrainedConfig):
    """Configuration of `RVQCodecModel`.

    Args:
        sample_rate_hz: of the sounds that go in and come out.
        channels: that are coded together; codes have no channel axis.
        strides: samples under a spectral frame, then how many frames become one, step by step.
        widths: of the layers at each of these rates.
        encoder_depths: convolution blocks at each rate.
        decoder_depths: the same on the way back.
        latent_dim: width of the latents that the quantizer sees.
        causal: no layer looks ahead, so that a stream needs no delay beyond a hop.
        middle: layers around the quantizer that look further: "none", "mamba" (to all frames
            before, causal or not), "transformer" (to 64 frames before, and after if not causal).
        middle_depth: how many of them, on each side.
        encoder_beam_size: partial codes that a residual quantizer keeps while it encodes. More is
            slower and nearer with all levels, a little less near with the first one or two.
        quantizer_config: `kind` and the other arguments of `vqtok.quantizers.build_quantizer`,
            without `dim`, which is `latent_dim`.
    """

    model_type = "vqtok_rvq_codec"

    sample_rate_hz: int = 16_000
    channels: int = 1
    strides: list[int] = dataclasses.field(default_factory=lambda: [54, 4])
    widths: list[int] = dataclasses.field(default_factory=lambda: [128, 256])
    encoder_depths: list[int] = dataclasses.field(default_factory=lambda: [2, 3])
    decoder_depths: list[int] = dataclasses.field(default_factory=lambda: [2, 4])
    latent_dim: int = 32
    causal: bool = False
    middle: str = "none"
    middle_depth: int = MIDDLE_DEPTH
    encoder_beam_size: int = 1
    quantizer_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if self.quantizer_config is None:
            self.quantizer_config = {
                "kind": "residual",
                "codebook_size": 1024,
                "num_codebooks": 8,
                "level_dropout": 0.5,
            }
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides) -> "RVQCodecConfig":
        """One of "nano", "16khz", "24khz", "44khz", with fields changed at will."""
        return from_preset(cls, PRESETS, name, overrides)

    @property
    def hop_samples(self) -> int:
        """Samples under one code."""
        return math.prod(self.strides)

    def validate_sizes(self) -> None:
        """Every count in its range, before anything is allocated."""
        rates = len(self.strides)
        if not 1 <= rates <= 8:
            raise ConfigError(f"strides are 1 to 8 numbers; got {self.strides}.")
        lists = {
            "strides": (1, MAX_STRIDE),
            "widths": (8, MAX_WIDTH),
            "encoder_depths": (0, MAX_DEPTH),
            "decoder_depths": (0, MAX_DEPTH),
        }
        for name, (low, high) in lists.items():
            values = getattr(self, name)
            if len(values) != rates or not all(low <= value <= high for value in values):
                raise ConfigError(
                    f"{name} must be {rates} numbers, one a stride, each {low} to {high}; "
                    f"got {values}."
                )
        ranges = {
            "sample_rate_hz": (4_000, 192_000),
            "channels": (1, 32),
            "latent_dim": (1, self.widths[-1]),
            "middle_depth": (1, MAX_DEPTH),
        }
        check_ranges(self, ranges)
        if self.hop_samples > MAX_STRIDE or self.hop_samples < 2:
            raise ConfigError(f"strides must multiply to 2 to {MAX_STRIDE}; got {self.strides}.")
        if self.middle not in MIDDLES:
            raise ConfigError(f"middle is one of {', '.join(MIDDLES)}; got {self.middle!r}.")
        if self.middle == "none" and self.middle_depth != MIDDLE_DEPTH:
            raise ConfigError(f"middle_depth={self.middle_depth} wants a middle that is not none.")

    def validate_quantizer(self) -> None:
        """`quantizer_config` names a kind, leaves `dim` to `latent_dim`, and is not too deep."""
        check_quantizer_config(self.quantizer_config)
        levels = self.quantizer_config.get("num_codebooks", 1)
        if isinstance(levels, int) and levels > MAX_LEVELS:
            raise ConfigError(f"a codec has at most {MAX_LEVELS} codebooks; got {levels}.")
        check_beam(self.encoder_beam_size, self.quantizer_config["kind"])
