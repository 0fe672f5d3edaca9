"""What an embedding tokenizer is made of: widths and the quantizer's arguments."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vqtok.errors import ConfigError
from vqtok.models.quantizer_config import check_beam, check_quantizer_config

DEFAULT_BEAM = 5  # faiss's ResidualQuantizer searches as widely
MAX_WIDTH, MAX_LAYERS = 2**16, 32


@strict
class EmbeddingVQConfig(PreTrainedConfig):
    """Configuration of `EmbeddingVQModel`.

    Args:
        embedding_dim: width of the vectors.
        latent_dim: width that the quantizer sees; None: that of the vectors.
        encoder_widths: of the hidden layers between vector and latent. With none of them and
            equal widths there is no encoder: the quantizer sees the vectors as they are.
        decoder_widths: of the hidden layers on the way back.
        encoder_beam_size: partial codes that a residual quantizer keeps while it encodes; None is
            5 for kind "residual", and every other kind has only 1, an exact search.
        quantizer_config: `kind` and the other arguments of `vqtok.quantizers.build_quantizer`,
            without `dim`, which is `latent_dim`.
    """

    model_type = "vqtok_embedding_vq"

    embedding_dim: int = 768
    latent_dim: int | None = None
    encoder_widths: list[int] | tuple[int, ...] = ()
    decoder_widths: list[int] | tuple[int, ...] = ()
    encoder_beam_size: int | None = None
    quantizer_config: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if self.quantizer_config is None:
            self.quantizer_config = {"kind": "residual", "codebook_size": 256, "num_codebooks": 4}
        # JSON brings tuples back as lists
        self.encoder_widths = tuple(self.encoder_widths)
        self.decoder_widths = tuple(self.decoder_widths)
        super().__post_init__(**kwargs)

    @property
    def quantizer_dim(self) -> int:
        """Width of the latents."""
        return self.embedding_dim if self.latent_dim is None else self.latent_dim

    @property
    def beam_size(self) -> int:
        """Partial codes kept per vector; 1 is the kind's own search."""
        default = DEFAULT_BEAM if self.quantizer_config["kind"] == "residual" else 1
        return default if self.encoder_beam_size is None else self.encoder_beam_size

    def validate_widths(self) -> None:
        """Every width in its range, before anything is allocated."""
        widths = {
            "embedding_dim": [self.embedding_dim],
            "latent_dim": [self.quantizer_dim],
            "encoder_widths": self.encoder_widths,
            "decoder_widths": self.decoder_widths,
        }
        for name, values in widths.items():
            if len(values) > MAX_LAYERS or not all(1 <= value <= MAX_WIDTH for value in values):
                raise ConfigError(
                    f"{name} must be 1 to {MAX_WIDTH}, in at most {MAX_LAYERS} layers; "
                    f"got {getattr(self, name)}."
                )

    def validate_quantizer(self) -> None:
        """`quantizer_config` names a kind, leaves `dim` to us, and the beam suits it."""
        config = self.quantizer_config
        check_quantizer_config(config)
        if config["kind"] == "spatial":
            raise ConfigError("kind 'spatial' wants places in an image, which a vector has not.")
        check_beam(self.encoder_beam_size, config["kind"])
