"""Mimi, the codec of Moshi: 24 kHz, 12.5 frames a second, one semantic codebook first.

Source: Défossez et al. 2024, arXiv 2410.00037; class `transformers.MimiModel`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import EncodecFeatureExtractor, MimiConfig, MimiModel

from vqtok.models.adapters.audio import AudioAdapter
from vqtok.models.adapters.encodec import preprocessor
from vqtok.models.adapters.loading import finish, load_whole, native_config, native_processor

# older files have the rotary options flat; `_frame_rate` overrides what the strides say
OLDER_FIELDS = ("_frame_rate", "frame_rate", "rope_scaling", "rope_theta")


class MimiTokenizer(AudioAdapter):
    """`num_codebooks` is the native `num_quantizers`."""

    # the transformers were children of the model before they were children of its halves
    encoder_parts = ("encoder", "encoder_transformer", "downsample")
    decoder_parts = ("upsample", "decoder_transformer", "decoder")
    decode_fields = (
        "audio_channels",
        "hidden_act",
        "norm_eps",
        "num_attention_heads",
        "num_key_value_heads",
        "num_semantic_quantizers",
        "pad_mode",
        "sampling_rate",
        "sliding_window",
        "trim_right_ratio",
        "upsampling_ratios",
        "use_causal_conv",
    )
    encode_fields = ("dilation_growth_rate",)

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "MimiTokenizer":
        config = native_config(content, MimiConfig, OLDER_FIELDS)
        native = load_whole(folder, MimiModel, config)
        extractor = native_processor(folder, EncodecFeatureExtractor, extractor_options(config))
        return finish(cls(native, preprocessor(extractor, config)), folder)

    @classmethod
    def fresh(cls, config: MimiConfig) -> "MimiTokenizer":
        extractor = EncodecFeatureExtractor(**extractor_options(config))
        return cls(MimiModel(config), preprocessor(extractor, config))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.num_quantizers

    @property
    def hop(self) -> int:
        return round(self.config.sampling_rate / self.config.frame_rate)

    @property
    def frame_rate_hz(self) -> float:
        return float(self.config.frame_rate)

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        # the semantic codebooks come together; they are residual, so the first are cut off exactly
        wanted = max(levels, self.config.num_semantic_quantizers)
        out = self.native.encode(inputs, num_quantizers=wanted, return_dict=True)
        return out.audio_codes[:, :levels].contiguous()

    def _native_decode(self, codes: Tensor) -> Tensor:
        return self.native.decode(codes, return_dict=True).audio_values


def extractor_options(config: MimiConfig) -> dict[str, Any]:
    """For a folder without preprocessor_config.json."""
    return {"feature_size": config.audio_channels, "sampling_rate": config.sampling_rate}
