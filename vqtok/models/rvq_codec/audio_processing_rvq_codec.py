"""Sounds to waveforms and back, at the codec's rate; `vqtok.models.audio` reads them.

path, bytes, (waveform, rate), dict ──read──▶ float32 [C, T] ──write──▶ (float32 [C, T], rate)
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from vqtok.errors import ConfigError, InputError
from vqtok.models.audio import READING, read_blocks, read_waveform


class RVQCodecProcessor(FeatureExtractionMixin):
    """Reads and writes the sounds of RVQ codecs.

    Args:
        sampling_rate: Hz; a sound of another rate is resampled to it.
        channels: of every sound; one with another number is refused.
        kwargs: keys that transformers adds to preprocessor_config.json.
    """

    model_input_names = ("input_values",)

    def __init__(self, sampling_rate: int = 16_000, channels: int = 1, **kwargs):
        kwargs.pop("feature_extractor_type", None)
        super().__init__(**kwargs)
        for name, value in (("sampling_rate", sampling_rate), ("channels", channels)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is a whole number above 0; got {value!r}.")
        self.sampling_rate, self.channels = sampling_rate, channels

    def code_options(self) -> dict[str, Any]:
        """What the codes of a sound depend on, for the fingerprint."""
        return {
            "sampling_rate": self.sampling_rate,
            "channels": self.channels,
            "reading": READING,
        }

    def read(self, item: Any) -> tuple[Tensor, dict[str, int]]:
        """One sound to float32 [C, T] at the codec's rate, and its number of samples there.

        Raises:
            InputError: no sound, a broken one, or another number of channels.
        """
        waveform = read_waveform(item, self.sampling_rate, self.channels)
        return waveform, {"samples": waveform.shape[-1]}

    def blocks(self, item: Any) -> Iterator[Tensor]:
        """The same piece by piece: float32 [C, t], in memory that does not grow with the sound."""
        return read_blocks(item, self.sampling_rate, self.channels)

    def write(self, output: Tensor) -> tuple[np.ndarray, int]:
        """Float [C, T] to (float32 [C, T], rate), whatever lies outside [-1, 1] clamped."""
        waveform = output.detach().float().cpu().clamp(-1, 1)
        return np.ascontiguousarray(waveform.numpy()), self.sampling_rate

    def __call__(self, sounds: Any, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """Sounds of one length to `input_values` [B, C, T].

        Args:
            sounds: one sound or a list of them; a pair (waveform, rate) is one sound.
            return_tensors: "pt" or "np"; None leaves a list of tensors, which may differ.
            kwargs: nothing; an option of another feature extractor is refused.
        """
        if kwargs:
            raise InputError(
                f"{type(self).__name__} knows no option {sorted(kwargs)}: sampling_rate and "
                "channels are set when it is made, and it never pads."
            )
        if return_tensors not in ("pt", "np", None):
            raise InputError(f'return_tensors must be "pt", "np" or None; got {return_tensors!r}.')
        sounds = sounds if isinstance(sounds, list) else [sounds]
        waveforms = [self.read(sound)[0] for sound in sounds]
        if return_tensors is None:
            return BatchFeature({"input_values": waveforms})
        lengths = {waveform.shape[-1] for waveform in waveforms}
        if len(lengths) != 1:
            raise InputError(
                f"a batch wants sounds of one length; got {sorted(lengths)[:8]} samples. "
                "tokenize() takes them as they are; return_tensors=None gives a list."
            )
        batch = torch.stack(waveforms)
        return BatchFeature(
            {"input_values": batch if return_tensors == "pt" else np.asarray(batch)}
        )
