"""What a text tokenizer is made of: bytes a code position, widths and the quantizer's arguments."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vqtok.errors import ConfigError
from vqtok.models.presets import check_ranges, from_preset
from vqtok.models.quantizer_config import check_quantizer_config

PRESETS: dict[str, dict[str, int]] = {
    "nano": {"width": 16, "encoder_depth": 1, "decoder_depth": 1},
    "tiny": {"width": 32, "encoder_depth": 1, "decoder_depth": 1},
    "small": {"width": 256, "encoder_depth": 2, "decoder_depth": 2, "latent_dim": 16},
}
MAX_PATCH_BYTES, MAX_WIDTH, MAX_DEPTH = 7, 8192, 64


@strict
class TextVQConfig(PreTrainedConfig):
    """Configuration of `TextVQModel`.

    Args:
        patch_bytes: bytes under one code position, 1 to 7.
        width: of the layers in encoder and decoder, at least `latent_dim`.
        encoder_depth: residual blocks before the quantizer; 0 is none.
        decoder_depth: residual blocks after it; 0 is none.
        latent_dim: width of the latents that the quantizer sees, a multiple of `patch_bytes`.
        quantizer_config: `kind` and the other arguments of `vqtok.quantizers.build_quantizer`,
            without `dim`, which is `latent_dim`.
    """

    model_type = "vqtok_text_vq"

    patch_bytes: int = 4
    width: int = 32
    encoder_depth: int = 1
    decoder_depth: int = 1
    latent_dim: int = 8
    quantizer_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if self.quantizer_config is None:
            # a level spells its own bytes: the latent of the others must not be pulled to its code
            self.quantizer_config = {
                "kind": "residual",
                "codebook_size": 4096,
                "num_codebooks": 2,
                "commitment_weight": 0.0,
            }
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "TextVQConfig":
        """One of the sizes "nano", "tiny", "small", with fields changed at will."""
        return from_preset(cls, PRESETS, name, overrides)

    def validate_sizes(self) -> None:
        """Every size in its range, before anything is allocated."""
        ranges = {
            "patch_bytes": (1, MAX_PATCH_BYTES),
            "latent_dim": (self.patch_bytes, 8 * self.patch_bytes),
            "width": (self.latent_dim, MAX_WIDTH),
            "encoder_depth": (0, MAX_DEPTH),
            "decoder_depth": (0, MAX_DEPTH),
        }
        check_ranges(self, ranges)
        if self.latent_dim % self.patch_bytes:
            raise ConfigError(
                f"latent_dim must be a multiple of patch_bytes, {self.patch_bytes}; "
                f"got {self.latent_dim}."
            )

    def validate_quantizer(self) -> None:
        """`quantizer_config` names a kind, leaves `dim` to us, and suits a line of text."""
        check_quantizer_config(self.quantizer_config)
        if self.quantizer_config["kind"] == "spatial":
            raise ConfigError("kind 'spatial' wants places in an image, which a text has not.")
