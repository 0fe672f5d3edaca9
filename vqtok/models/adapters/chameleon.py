"""Chameleon's image tokenizer, alone or inside the multimodal model; it encodes only.

Source: Chameleon Team 2024, arXiv 2405.09818; class `transformers.ChameleonVQVAE`, which has no
decoder: Meta published the encoder's weights only. Pictures are resized by Pillow, as transformers
itself does it below torchvision 0.27: only then are the codes those of the Lanczos filter.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import ChameleonImageProcessorPil, ChameleonVQVAE, ChameleonVQVAEConfig

from vqtok.errors import VqtokError
from vqtok.models.adapters.image import ImageAdapter, ImagePreprocessor
from vqtok.models.adapters.loading import finish, native_processor
from vqtok.models.adapters.multimodal import load_vq, shards_of_vq


class ChameleonTokenizer(ImageAdapter):
    """Encodes only: `decode`, `detokenize` and so every reconstruction are refused."""

    can_decode = False
    decoder_parts = ("post_quant_conv",)
    encode_fields = ("attn_resolutions", "attn_type", "resolution")

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "ChameleonTokenizer":
        native = load_vq(folder, content, ChameleonVQVAE, ChameleonVQVAEConfig)
        processor = native_processor(folder, ChameleonImageProcessorPil, {})
        return finish(cls(native, ImagePreprocessor(processor)), folder)

    @classmethod
    def fresh(cls, config: ChameleonVQVAEConfig) -> "ChameleonTokenizer":
        return cls(ChameleonVQVAE(config), ImagePreprocessor(ChameleonImageProcessorPil()))

    @classmethod
    def weight_names(cls, weight_map: Mapping[str, str]) -> list[str]:
        return shards_of_vq(weight_map)

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        return self._flat_to_grid(self.native.encode(inputs, return_dict=True).image_tokens, inputs)

    def _native_decode(self, codes: Tensor) -> Tensor:
        raise VqtokError(
            "Chameleon cannot decode: transformers' ChameleonVQVAE has no decoder, and the "
            "published weights hold none. Encode with it, or take a tokenizer that decodes "
            "(emu3, janus, a diffusers VQModel, vqtok/vim-vq-tiny)."
        )
