"""Emu3's vision tokenizer for pictures, alone or inside the multimodal model.

Source: Wang et al. 2024, arXiv 2409.18869; class `transformers.Emu3VQVAE`. It is a video model: a
picture goes in as four equal frames, and the first of the decoded frames comes out, as natively.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Emu3ImageProcessor, Emu3VQVAE, Emu3VQVAEConfig

from vqtok.models.adapters.image import ImageAdapter, ImagePreprocessor
from vqtok.models.adapters.loading import finish, native_processor
from vqtok.models.adapters.multimodal import load_vq, shards_of_vq


class Emu3Tokenizer(ImageAdapter):
    """Any height and width; the native `image_sizes` are those of the inputs."""

    decode_fields = ("num_attention_heads", "temporal_downsample_factor", "attn_resolutions")

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "Emu3Tokenizer":
        native = load_vq(folder, content, Emu3VQVAE, Emu3VQVAEConfig)
        processor = native_processor(folder, Emu3ImageProcessor, {})
        return finish(cls(native, ImagePreprocessor(processor)), folder)

    @classmethod
    def fresh(cls, config: Emu3VQVAEConfig) -> "Emu3Tokenizer":
        return cls(Emu3VQVAE(config), ImagePreprocessor(Emu3ImageProcessor()))

    @classmethod
    def weight_names(cls, weight_map: Mapping[str, str]) -> list[str]:
        return shards_of_vq(weight_map)

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        sizes = [list(inputs.shape[2:])] * len(inputs)
        tokens = self.native.encode(inputs, sizes, return_dict=True).image_tokens
        return torch.stack(list(tokens))[:, None]

    def _native_decode(self, codes: Tensor) -> Tensor:
        return self.native.decode(codes[:, 0])
