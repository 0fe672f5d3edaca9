"""X-Codec 2: 16 kHz speech, one codebook of finite scalars, semantic and acoustic encoder.

Source: Ye et al. 2025, arXiv 2502.04128; class `transformers.Xcodec2Model`.
Its encoder takes the waveform and a mel spectrogram of it; `encode` makes the latter with the
family's feature extractor, sound by sound on the CPU.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    Wav2Vec2BertConfig,
    Xcodec2Config,
    Xcodec2FeatureExtractor,
    Xcodec2Model,
)

from vqtok.errors import InputError, LoadError, ShapeError
from vqtok.models.adapters.audio import AudioAdapter, AudioPreprocessor
from vqtok.models.adapters.loading import finish, load_whole, native_config, native_processor

SEMANTIC_TYPE = "wav2vec2-bert"


class Xcodec2Preprocessor(AudioPreprocessor):
    """Gives the waveform as it is: padding and spectrogram are made when it is encoded."""

    def read(self, item: Any) -> tuple[Tensor, dict[str, Any]]:
        waveform = self.waveform(item)
        return waveform, {"samples": waveform.shape[-1]}

    def features(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """[B, 1, T] to the native encode's arguments."""
        sounds = list(inputs[:, 0].detach().float().cpu())
        try:
            return self.native(sounds, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        except (AssertionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"a sound of {inputs.shape[-1]} samples cannot be prepared: {error}"
            ) from error


class Xcodec2Tokenizer(AudioAdapter):
    """One codebook, so `num_codebooks` is 1 or None."""

    processor_class = Xcodec2Preprocessor
    encoder_parts = ("acoustic_encoder", "semantic_encoder", "semantic_adapter", "fc_encoder")
    decoder_parts = ("acoustic_decoder",)
    decode_fields = (
        "downsampling_ratios",
        "hidden_act",
        "num_attention_heads",
        "num_key_value_heads",
        "quantization_levels",
        "rms_norm_eps",
        "rope_parameters",
        "sampling_rate",
    )

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "Xcodec2Tokenizer":
        semantic = content.get("semantic_model_config")
        if not isinstance(semantic, Mapping) or semantic.get("model_type") != SEMANTIC_TYPE:
            raise LoadError(f"semantic_model_config must be of the type {SEMANTIC_TYPE!r}.")
        inner = native_config(semantic, Wav2Vec2BertConfig)
        plain = {key: v for key, v in content.items() if key != "semantic_model_config"}
        config = native_config(plain, Xcodec2Config)
        config.semantic_model_config = inner
        native = load_whole(folder, Xcodec2Model, config)
        extractor = native_processor(folder, Xcodec2FeatureExtractor, extractor_options(config))
        return finish(cls(native, Xcodec2Preprocessor(extractor, config.sampling_rate, 1)), folder)

    @classmethod
    def fresh(cls, config: Xcodec2Config) -> "Xcodec2Tokenizer":
        extractor = Xcodec2FeatureExtractor(**extractor_options(config))
        processor = Xcodec2Preprocessor(extractor, config.sampling_rate, 1)
        return cls(Xcodec2Model(config), processor)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (math.prod(self.config.quantization_levels),)

    @property
    def hop(self) -> int:
        return self.config.hop_length

    def encode(
        self,
        inputs: Tensor,
        num_codebooks: int | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
    ) -> Tensor:
        """Waveforms to codes [B, 1, frames].

        Args:
            inputs: [B, 1, T]; as they were recorded, or, with `input_features`, padded as the
                feature extractor does it.
            num_codebooks: 1 or None.
            input_features: the feature extractor's spectrograms, [B, frames, mels], if they are
                already there.
            input_features_mask: [B, frames], beside them.
        """
        self._check_inputs(inputs)
        self.levels(num_codebooks)
        if input_features is None:
            if input_features_mask is not None:
                raise ShapeError("input_features_mask comes with input_features.")
            made = self.processor.features(inputs)
            inputs, input_features = made["input_values"], made["input_features"]
            input_features_mask = made["input_features_mask"]
        mask = None if input_features_mask is None else input_features_mask.to(self.device)
        return self.native.encode(
            inputs.to(self.device, self.dtype),
            input_features.to(self.device, self.dtype),
            input_features_mask=mask,
            return_dict=True,
        ).audio_codes.long()

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        return self.encode(inputs, levels)

    def _native_decode(self, codes: Tensor) -> Tensor:
        return self.native.decode(codes, return_dict=True).audio_values


def extractor_options(config: Xcodec2Config) -> dict[str, Any]:
    """For a folder without preprocessor_config.json."""
    return {"sampling_rate": config.sampling_rate, "hop_length": config.hop_length}
