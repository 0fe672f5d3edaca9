"""The `quantizer_config` that every tokenizer of ours has in its configuration."""

from typing import Any

from vqtok.errors import ConfigError

MAX_BEAM = 256


def check_quantizer_config(config: dict[str, Any]) -> None:
    """It names a kind and leaves `dim` to the model's `latent_dim`.

    Raises:
        ConfigError: no `kind`, or a `dim`.
    """
    if "kind" not in config or "dim" in config:
        raise ConfigError(
            "quantizer_config wants `kind` and build_quantizer's arguments without `dim`, "
            f"which is latent_dim; got {config}."
        )


def check_beam(beam: int | None, kind: str) -> None:
    """A model's `encoder_beam_size`: only residual codes are searched by a beam.

    Raises:
        ConfigError: out of range, or more than 1 for another kind.
    """
    if beam is not None and not 1 <= beam <= MAX_BEAM:
        raise ConfigError(f"encoder_beam_size must be 1 to {MAX_BEAM}; got {beam}.")
    if kind != "residual" and beam not in (None, 1):
        raise ConfigError(f"encoder_beam_size is for kind 'residual'; got {beam} with {kind!r}.")
