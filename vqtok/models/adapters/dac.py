"""DAC, the Descript Audio Codec: 16, 24 and 44.1 kHz, mono.

Source: Kumar et al. 2023, arXiv 2306.06546; class `transformers.DacModel`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import DacConfig, DacFeatureExtractor, DacModel

from vqtok.models.adapters.audio import AudioAdapter, AudioPreprocessor
from vqtok.models.adapters.loading import finish, load_whole, native_config, native_processor


class DacTokenizer(AudioAdapter):
    """`num_codebooks` is the native `n_quantizers`."""

    decode_fields = ("downsampling_ratios", "sampling_rate")

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "DacTokenizer":
        config = native_config(content, DacConfig)
        native = load_whole(folder, DacModel, config)
        extractor = native_processor(folder, DacFeatureExtractor, extractor_options(config))
        return finish(cls(native, AudioPreprocessor(extractor, config.sampling_rate, 1)), folder)

    @classmethod
    def fresh(cls, config: DacConfig) -> "DacTokenizer":
        extractor = DacFeatureExtractor(**extractor_options(config))
        return cls(DacModel(config), AudioPreprocessor(extractor, config.sampling_rate, 1))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.n_codebooks

    @property
    def hop(self) -> int:
        return self.config.hop_length

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        return self.native.encode(inputs, n_quantizers=levels, return_dict=True).audio_codes

    def _native_decode(self, codes: Tensor) -> Tensor:
        audio = self.native.decode(audio_codes=codes, return_dict=True).audio_values
        return audio[:, None]  # the native output has no channel axis


def extractor_options(config: DacConfig) -> dict[str, Any]:
    """For a folder without preprocessor_config.json."""
    return {"sampling_rate": config.sampling_rate, "hop_length": config.hop_length}
