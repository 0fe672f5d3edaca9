"""The `quantizer_config` that every tokenizer of ours has in its configuration."""

from typing import Any

from vqtok.errors import ConfigError


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
