"""Janus's image tokenizer (of generation), alone or inside the multimodal model.

Source: Wu et al. 2024, arXiv 2410.13848; class `transformers.JanusVQVAE`. It encodes any size but
decodes only the square grid of its config: `num_patches` codes a side (Janus-Pro: 24, 384 pixels).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    JanusImageProcessor,
    JanusVisionConfig,
    JanusVQVAE,
    JanusVQVAEConfig,
)

from vqtok.errors import LoadError, ShapeError
from vqtok.models.adapters.image import ImageAdapter, ImagePreprocessor
from vqtok.models.adapters.loading import finish, native_config, native_processor
from vqtok.models.adapters.multimodal import inner_config, load_vq, shards_of_vq


class JanusTokenizer(ImageAdapter):
    """A square picture of `num_patches` codes a side, which the image processor makes."""

    decode_fields = ("num_patches",)

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "JanusTokenizer":
        derived = {}
        if content.get("model_type") != JanusVQVAEConfig.model_type:
            # as JanusConfig does it: the decoder's grid is that of the vision encoder
            vision = native_config(inner_config(content, JanusVisionConfig), JanusVisionConfig)
            derived["num_patches"] = whole_ratio(vision.image_size, vision.patch_size)
        native = load_vq(folder, content, JanusVQVAE, JanusVQVAEConfig, **derived)
        processor = native_processor(folder, JanusImageProcessor, default_size(native))
        return finish(cls(native, ImagePreprocessor(processor)), folder)

    @classmethod
    def fresh(cls, config: JanusVQVAEConfig) -> "JanusTokenizer":
        native = JanusVQVAE(config)
        return cls(native, ImagePreprocessor(JanusImageProcessor(**default_size(native))))

    @classmethod
    def weight_names(cls, weight_map: Mapping[str, str]) -> list[str]:
        return shards_of_vq(weight_map)

    def canary_side(self) -> int:
        return self.config.num_patches * self.hop

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        return self._flat_to_grid(self.native.encode(inputs, return_dict=True).image_tokens, inputs)

    def _native_decode(self, codes: Tensor) -> Tensor:
        side = self.config.num_patches
        if codes.shape[2:] != (side, side):
            raise ShapeError(
                f"Janus decodes a grid of {side} x {side} codes only; got {list(codes.shape)}."
            )
        return self.native.decode(codes[:, 0].flatten(1))


def whole_ratio(image_size: Any, patch_size: Any) -> int:
    if not isinstance(image_size, int) or not isinstance(patch_size, int) or patch_size < 1:
        raise LoadError(
            f"Janus wants a square image_size and patch_size; got {image_size} and {patch_size}."
        )
    return image_size // patch_size


def default_size(native: JanusVQVAE) -> dict[str, Any]:
    """For a folder without preprocessor_config.json."""
    config = native.config
    side = config.num_patches * 2 ** (len(config.channel_multiplier) - 1)
    return {
        "size": {"height": side, "width": side},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
