"""EnCodec: 24 kHz mono, 48 kHz stereo, and every other `model_type` "encodec".

Source: Défossez et al. 2022, arXiv 2210.13438; class `transformers.EncodecModel`.
Where the model works in chunks (48 kHz: one second, 1 % overlap), codes are [B, Q, chunks * frames]
as in the native output, chunk after chunk. The last chunk is filled up with zeros as there; its
`last_frame_pad_length` and the chunks' loudness `scales` are in the meta of every item.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecFeatureExtractor, EncodecModel

from vqtok.errors import LoadError, ShapeError
from vqtok.models.adapters.audio import AudioAdapter, AudioPreprocessor
from vqtok.models.adapters.loading import finish, load_whole, native_config, native_processor
from vqtok.models.outputs import VQTokens

MAX_CODEBOOKS = 1024


class EncodecTokenizer(AudioAdapter):
    """`bandwidth` is chosen by `num_codebooks`: the least that has them, cut to the number."""

    decode_fields = (
        "audio_channels",
        "chunk_length_s",
        "normalize",
        "overlap",
        "pad_mode",
        "sampling_rate",
        "trim_right_ratio",
        "upsampling_ratios",
        "use_causal_conv",
    )
    encode_fields = ("dilation_growth_rate",)

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "EncodecTokenizer":
        config = native_config(content, EncodecConfig)
        check_config(config)
        native = load_whole(folder, EncodecModel, config)
        extractor = native_processor(folder, EncodecFeatureExtractor, extractor_options(config))
        return finish(cls(native, preprocessor(extractor, config)), folder)

    @classmethod
    def fresh(cls, config: EncodecConfig) -> "EncodecTokenizer":
        check_config(config)
        extractor = EncodecFeatureExtractor(**extractor_options(config))
        return cls(EncodecModel(config), preprocessor(extractor, config))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.num_quantizers

    @property
    def hop(self) -> int:
        return self.config.hop_length

    @property
    def chunk_frames(self) -> int | None:
        """Codes of a whole chunk; None where the model takes a sound in one piece."""
        length = self.config.chunk_length
        return None if length is None else -(-length // self.hop)

    def encode_chunks(
        self, inputs: Tensor, num_codebooks: int | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, int]:
        """Codes with all that `decode` can use.

        Args:
            inputs: [B, C, T].
            num_codebooks: keep only the first codebooks.
            mask: [B, T] bool, False where a sound was filled up.

        Returns:
            Codes [B, q, chunks * frames]; the chunks' scales [B, chunks], or None for a model that
            does not normalize; how many codes of the last chunk are filling.
        """
        self._check_inputs(inputs)
        levels = self.levels(num_codebooks)
        out = self.native.encode(
            inputs.to(self.dtype), mask, bandwidth=self._bandwidth(levels), return_dict=True
        )
        codes = out.audio_codes[:, :, :levels].permute(1, 2, 0, 3)  # [B, q, chunks, frames]
        scales = None if out.audio_scales[0] is None else torch.cat(out.audio_scales, dim=1)
        return codes.flatten(2), scales, int(out.last_frame_pad_length)

    def decode(
        self, codes: Tensor, scales: Tensor | None = None, last_frame_pad_length: int = 0
    ) -> Tensor:
        """Codes [B, q, chunks * frames] to [B, C, T].

        Args:
            codes: int64.
            scales: [B, chunks], the loudness of each chunk. Without them a model that normalizes
                gives the loudness that it normalizes to.
            last_frame_pad_length: how many codes at the end are filling and are left out.
        """
        self.check_codes(codes)
        chunks = self._chunks(codes, scales)
        frames = codes.unflatten(2, (chunks, -1)).permute(2, 0, 1, 3)
        each = [None] * chunks if scales is None else list(scales.to(self.dtype).split(1, dim=1))
        return self.native.decode(
            frames, each, return_dict=True, last_frame_pad_length=last_frame_pad_length
        ).audio_values

    def _chunks(self, codes: Tensor, scales: Tensor | None) -> int:
        length, whole = codes.shape[2], self.chunk_frames
        if scales is not None:
            chunks = scales.shape[1]
        else:
            chunks = 1 if whole is None or length <= whole else -(-length // whole)
        if not length or not chunks or length % chunks:
            raise ShapeError(
                f"codes are whole chunks of {whole} frames, filled up with zeros; got {length} "
                + ("frames." if scales is None else f"frames and {chunks} scales.")
            )
        return chunks

    def _bandwidth(self, levels: int) -> float:
        """The least bandwidth whose codes hold `levels` codebooks; RVQ is greedy, so cutting the
        rest off gives the codes that fewer codebooks would have given.
        """
        have = self.native.quantizer.get_num_quantizers_for_bandwidth
        enough = [b for b in self.config.target_bandwidths if have(b) >= levels]
        return min(enough) if enough else max(self.config.target_bandwidths)

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        return self.encode_chunks(inputs, levels)[0]

    def _round_trip(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        codes, scales, filling = self.encode_chunks(inputs)
        return codes, self.decode(codes, scales, filling)

    def _encode_items(
        self, inputs: Tensor, metas: Sequence[dict[str, Any]], num_codebooks: int | None
    ) -> Tensor:
        samples = [meta["samples"] for meta in metas]
        samples += samples[:1] * (len(inputs) - len(samples))  # copies that fill up the batch
        ends = torch.tensor(samples, device=inputs.device)[:, None]
        mask = torch.arange(inputs.shape[-1], device=inputs.device) < ends  # [B, T]
        codes, scales, filling = self.encode_chunks(inputs, num_codebooks, mask)
        for index, meta in enumerate(metas):
            if scales is not None:
                meta["scales"] = scales[index].float().tolist()
            if self.chunk_frames is not None:
                meta["last_frame_pad_length"] = filling
        return codes

    def _decode_item(self, item: VQTokens) -> Tensor:
        codes, scales = item.codes[None], item.meta.get("scales")
        self.check_codes(codes)
        if scales is not None:
            scales = torch.tensor([scales], dtype=torch.float32, device=self.device)
        filling = item.meta.get("last_frame_pad_length", 0)
        return self.decode(codes.to(self.device), scales, filling)[0]


def check_config(config: EncodecConfig) -> None:
    """What the class itself does not look at."""
    if not 1 <= config.num_quantizers <= MAX_CODEBOOKS:
        raise LoadError(
            f"target_bandwidths {config.target_bandwidths} give {config.num_quantizers} codebooks; "
            f"1 to {MAX_CODEBOOKS} are possible."
        )
    if config.chunk_length_s is not None and config.overlap is None:
        raise LoadError("an EnCodec config with chunk_length_s wants an overlap, too.")


def extractor_options(config: EncodecConfig) -> dict[str, Any]:
    """For a folder without preprocessor_config.json."""
    return {
        "feature_size": config.audio_channels,
        "sampling_rate": config.sampling_rate,
        "chunk_length_s": config.chunk_length_s,
        "overlap": config.overlap,
    }


def preprocessor(extractor: EncodecFeatureExtractor, config: Any) -> AudioPreprocessor:
    if extractor.feature_size != config.audio_channels:
        raise LoadError(
            f"the feature extractor has {extractor.feature_size} channels, its model "
            f"{config.audio_channels}: they do not belong together."
        )
    return AudioPreprocessor(extractor, config.sampling_rate, config.audio_channels)
