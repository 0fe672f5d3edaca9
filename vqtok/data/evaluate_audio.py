"""Rate and distortion of an audio tokenizer, with Opus at equal bit rate.

Distortion is measured at the tokenizer's sample rate, between the sound as the tokenizer read it
(resampled) and the sound that came back.
"""

import importlib.util
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtok.data.meters import Beside, EvaluationReport, Meter, mean
from vqtok.metrics.audio import PESQ_RATES_HZ, mel_distance, pesq, si_sdr, stft_distance, stoi
from vqtok.metrics.classical_audio import MAX_CHANNELS, opus_round_trip, why_no_opus

SPEECH_RATE_HZ = PESQ_RATES_HZ[-1]
SHORTEST_SECONDS = 0.1  # that are compared with Opus: five of its packets
NOTE = "constant bit rate, the rate of its packets without Ogg"
Sound = tuple[np.ndarray, int]


@dataclass(frozen=True, kw_only=True)
class AudioReport(EvaluationReport):
    """Of sounds; means over sounds unless said otherwise.

    Attributes:
        sounds: how many were measured.
        seconds: of all of them.
        bits_per_second: of all codes over all seconds; a thousandth of it is `kilobits_per_second`.
        mel_distance: `vqtok.metrics.audio.mel_distance`.
        si_sdr: dB.
        pesq: at 16 kHz (narrow band for a tokenizer of 8 kHz); None where the package pesq is
            not installed or no sound has speech in it.
        stoi: None where the package pystoi is not installed or all sounds are too short.
    """

    modality = "audio"
    sounds: int
    seconds: float
    bits_per_second: float
    kilobits_per_second: float
    mel_distance: float
    stft_distance: float
    si_sdr: float
    pesq: float | None
    stoi: float | None

    @property
    def items(self) -> int:
        return self.sounds


class AudioMeter(Meter):
    """Sounds are read as the tokenizer reads them."""

    modality = "audio"

    def __init__(self, *options: Any, **named: Any):
        super().__init__(*options, **named)
        self.measured: list[dict[str, float | None]] = []
        self.bits = 0.0
        self.seconds = 0.0
        reason = why_no_opus() if self.classical else ""
        if self.classical and not reason and self.tokenizer.channels > MAX_CHANNELS:
            reason = f"not for sounds of {self.tokenizer.channels} channels"
        self.beside = [Beside("Opus", reason or NOTE)] if self.classical else []
        self.runs_opus = self.classical and not reason

    def read(self, data: bytes) -> Sound:
        tensor, meta = self.tokenizer._read(data)
        # a family's own extractor may have filled the end up
        return tensor[:, : meta["samples"]].numpy(), self.tokenizer.sample_rate_hz

    def add(self, original: Sound, tokens: Any, back: Sound) -> None:
        waveform, rate = original
        bits, seconds = self.count(tokens.codes), waveform.shape[-1] / rate
        ours = measure(back[0], waveform, rate, bits)
        self.measured.append(ours)
        self.bits += bits
        self.seconds += seconds
        if not self.runs_opus:
            return
        if seconds < SHORTEST_SECONDS:
            self.beside[0].add(None, ours)
            return
        decoded, size = opus_round_trip(waveform, rate, bits / seconds)
        self.beside[0].add(measure(decoded, waveform, rate, 8 * size), ours, amount=seconds)

    def report(self, status: Counter[str]) -> AudioReport:
        rate = self.bits / self.seconds
        names = ("mel_distance", "stft_distance", "si_sdr", "pesq", "stoi")
        return AudioReport(
            sounds=len(self.measured),
            seconds=self.seconds,
            bits_per_second=rate,
            kilobits_per_second=rate / 1000,
            **{name: mean([entry[name] for entry in self.measured]) for name in names},
            **self.common(status, self.beside),
        )


def measure(
    back: np.ndarray, original: np.ndarray, rate: int, bits: float
) -> dict[str, float | None]:
    """Rate and distortion of one sound, both [C, T]."""
    ours, theirs = torch.from_numpy(np.array(back)), torch.from_numpy(np.array(original))
    return {
        "kilobits_per_second": bits * rate / original.shape[-1] / 1000,
        "mel_distance": mel_distance(ours, theirs, rate).item(),
        "stft_distance": stft_distance(ours, theirs).item(),
        "si_sdr": si_sdr(ours, theirs).item(),
        "pesq": speech_score(ours, theirs, rate),
        "stoi": stoi(ours, theirs, rate).item() if has("pystoi") else None,
    }


def speech_score(ours: Tensor, theirs: Tensor, rate: int) -> float | None:
    if not has("pesq"):
        return None
    if rate not in PESQ_RATES_HZ:
        from torchaudio.functional import resample

        ours, theirs = (resample(sound, rate, SPEECH_RATE_HZ) for sound in (ours, theirs))
        rate = SPEECH_RATE_HZ
    return pesq(ours, theirs, rate).item()


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
