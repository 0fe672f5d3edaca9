"""What a VIM-VQ tokenizer is made of: sizes, presets and the quantizer's arguments."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vqtok.errors import ConfigError
from vqtok.models.presets import check_ranges, from_preset
from vqtok.models.quantizer_config import check_quantizer_config

PRESETS: dict[str, dict[str, int]] = {
    "nano": {"width": 96, "encoder_depth": 2, "decoder_depth": 2, "refiner_channels": 16},
    "tiny": {"width": 192, "encoder_depth": 4, "decoder_depth": 6, "refiner_channels": 32},
    "small": {"width": 384, "encoder_depth": 8, "decoder_depth": 12, "refiner_channels": 64},
    "base": {"width": 768, "encoder_depth": 12, "decoder_depth": 16, "refiner_channels": 96},
}
MAX_WIDTH, MAX_DEPTH = 8192, 256


@strict
class VimVQConfig(PreTrainedConfig):
    """Configuration of `VimVQModel`.

    Args:
        patch_pixels: side of the square that one code stands for; 8 or 16.
        width: of the tokens in encoder and decoder.
        encoder_depth: blocks; they scan rows and columns in turn.
        decoder_depth: blocks; at least `encoder_depth`.
        latent_dim: width of the latents that the quantizer sees.
        state_size: of every Mamba head.
        refiner_channels: of the convolutions that smooth across patch borders.
        quantizer_config: `kind` and the other arguments of `vqtok.quantizers.build_quantizer`,
            without `dim`, which is `latent_dim`.
    """

    model_type = "vqtok_vim_vq"

    patch_pixels: int = 8
    width: int = 192
    encoder_depth: int = 4
    decoder_depth: int = 6
    latent_dim: int = 16
    state_size: int = 16
    refiner_channels: int = 32
    quantizer_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if self.quantizer_config is None:
            self.quantizer_config = {"kind": "vq", "codebook_size": 4096}
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides) -> "VimVQConfig":
        """One of the sizes "nano", "tiny", "small", "base", with fields changed at will."""
        return from_preset(cls, PRESETS, name, overrides)

    def validate_sizes(self) -> None:
        """Every count in its range, before anything is allocated."""
        if self.patch_pixels not in (8, 16):
            raise ConfigError(f"patch_pixels must be 8 or 16; got {self.patch_pixels}.")
        ranges = {
            "width": (8, MAX_WIDTH),
            "encoder_depth": (1, MAX_DEPTH),
            "decoder_depth": (self.encoder_depth, MAX_DEPTH),
            "latent_dim": (1, self.width),
            "state_size": (1, 256),
            "refiner_channels": (1, MAX_WIDTH),
        }
        check_ranges(self, ranges)
        if self.width % 8:
            raise ConfigError(f"width must be a multiple of 8; got {self.width}.")

    def validate_quantizer(self) -> None:
        """`quantizer_config` names a kind and leaves `dim` to `latent_dim`."""
        check_quantizer_config(self.quantizer_config)
