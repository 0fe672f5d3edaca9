"""What the adapters of audio codecs share: raw sounds in and out, rates, canaries."""

import os
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from vqtok.errors import InputError, LoadError, ShapeError
from vqtok.models.adapters.base import AdapterModel
from vqtok.models.audio import READING, integer_sounds, read_waveform, sound_name
from vqtok.models.outputs import Rate

BOOKKEEPING = frozenset({"feature_extractor_type", "processor_class", "return_attention_mask"})


class AudioPreprocessor:
    """Reads sounds for a codec by its family's own feature extractor, and writes them.

    Args:
        native: the feature extractor of the family.
        sample_rate_hz: of the codec; a sound of another rate is resampled to it first.
        channels: of the codec; a sound with another number is refused.
    """

    def __init__(self, native: Any, sample_rate_hz: int, channels: int):
        if native.sampling_rate != sample_rate_hz:
            raise LoadError(
                f"the feature extractor works at {native.sampling_rate} Hz, its model at "
                f"{sample_rate_hz} Hz: they do not belong together."
            )
        self.native, self.sample_rate_hz, self.channels = native, sample_rate_hz, channels

    def code_options(self) -> dict[str, Any]:
        """What the codes of a sound depend on, for the fingerprint."""
        options = {k: v for k, v in self.native.to_dict().items() if k not in BOOKKEEPING}
        return {"native": options, "reading": READING}

    def waveform(self, item: Any) -> Tensor:
        """A raw sound as float32 [C, T] at the codec's rate."""
        return read_waveform(item, self.sample_rate_hz, self.channels)

    def read(self, item: Any) -> tuple[Tensor, dict[str, Any]]:
        """A raw sound to what the native encode takes, [C, T], padded as the family does it.

        Raises:
            InputError: no sound, or one that the feature extractor cannot work with.
        """
        waveform = self.waveform(item)
        samples = waveform[0] if self.channels == 1 else waveform
        try:
            features = self.native(
                samples.numpy(), sampling_rate=self.sample_rate_hz, return_tensors="pt"
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{sound_name(item)} cannot be prepared: {error}") from error
        return features["input_values"][0], {"samples": waveform.shape[-1]}

    def write(self, output: Tensor, meta: dict[str, Any]) -> tuple[np.ndarray, int]:
        """A decoded [C, T] to (float32 [C, samples], sample rate); without meta all of it."""
        waveform = output[:, : meta.get("samples")].detach().float().cpu()
        return np.ascontiguousarray(waveform.numpy()), self.sample_rate_hz

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        self.native.save_pretrained(folder)


class AudioAdapter(AdapterModel):
    """Base of the codecs: inputs [B, C, T], codes [B, Q, frames]."""

    modality = "audio"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    processor_class = AudioPreprocessor
    canary_frames: ClassVar[int] = 12

    @property
    def sample_rate_hz(self) -> int:
        return self.config.sampling_rate

    @property
    def channels(self) -> int:
        """Of the sounds that go in and come out."""
        return getattr(self.config, "audio_channels", 1)

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate_hz / self.hop

    @property
    def rate(self) -> Rate:
        return Rate(bits=self.frame_rate_hz * sum(self.code_bits), per="second")

    def canary_inputs(self) -> Tensor:
        """Two sounds made of integers."""
        return integer_sounds(self.canary_frames * self.hop, self.channels)

    def _check_inputs(self, inputs: Tensor) -> None:
        super()._check_inputs(inputs)
        if inputs.shape[1] != self.channels or not inputs.shape[2]:
            raise ShapeError(
                f"{type(self).__name__} wants [B, {self.channels}, T] with T of at least 1; got "
                f"{list(inputs.shape)}."
            )
