"""The image tokenizer inside a multimodal model of transformers, or saved on its own.

The language model around it is neither fetched nor read: only the shards that hold `vqmodel.`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from vqtok.errors import LoadError
from vqtok.models.adapters.loading import load_part, native_config

PART = "vqmodel."


def load_vq(
    folder: Path,
    content: Mapping[str, Any],
    model_class: type,
    config_class: type[PreTrainedConfig],
    **derived: int,
) -> nn.Module:
    """The VQ model of a folder, whose config is its own or has it as `vq_config`.

    Args:
        folder: holds the weights.
        content: of config.json.
        model_class: of the VQ model.
        config_class: of the VQ model.
        derived: fields that the multimodal config sets in its `vq_config`.
    """
    if content.get("model_type") == config_class.model_type:
        return load_part(folder, model_class, native_config(content, config_class), "")
    inner = inner_config(content, config_class) | derived
    return load_part(folder, model_class, native_config(inner, config_class), PART)


def inner_config(content: Mapping[str, Any], config_class: type[PreTrainedConfig]) -> dict:
    """A part's options in a multimodal config; without any, the class's defaults hold."""
    key = config_class.base_config_key
    inner = content.get(key) or {}
    if not isinstance(inner, dict):
        raise LoadError(f"{key} in config.json should be an object; it is {str(inner)[:80]}.")
    return inner


def shards_of_vq(weight_map: Mapping[str, str]) -> list[str]:
    """The files that hold the VQ model, by an index; the usual name without one."""
    inside = {file for name, file in weight_map.items() if PART in name}
    return sorted(inside or set(weight_map.values())) or ["model.safetensors"]
