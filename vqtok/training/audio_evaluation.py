"""What an audio tokenizer keeps of sounds, with all codebooks and with the first few of them."""

import importlib.util
from collections.abc import Sequence

from torch import Tensor, nn
from transformers import TrainerCallback

from vqtok.metrics.audio import PESQ_RATES_HZ, mel_distance, pesq, si_sdr, stft_distance, stoi
from vqtok.models.reconstruction import crop
from vqtok.training.callbacks import ReconstructionSounds
from vqtok.training.evaluation import Evaluation


class AudioEvaluation(Evaluation):
    """Sounds float32 [C, T] of any length, one at a time.

    `mel_distance`, `stft_distance`, `si_sdr` in dB; `pesq` and `stoi` where their packages are
    installed (PESQ at 8 and 16 kHz only), means over the sounds in which they find speech. With
    several codebooks also `mel_distance_first1`, `_first2`, `_first4` and so on, and `si_sdr`.

    Args:
        items: the sounds, at the tokenizer's rate.
        sample_rate_hz: of the tokenizer.
    """

    noun, unit, shown = "sounds", "second", ("mel_distance", "si_sdr")

    def __init__(self, items: Sequence[Tensor], sample_rate_hz: int):
        super().__init__(items)
        self.sample_rate_hz = sample_rate_hz
        self._scores = {}
        if importlib.util.find_spec("pesq") is not None and sample_rate_hz in PESQ_RATES_HZ:
            self._scores["pesq"] = pesq
        if importlib.util.find_spec("pystoi") is not None:
            self._scores["stoi"] = stoi

    def units(self, batch: Tensor) -> float:
        return len(batch) * batch.shape[-1] / self.sample_rate_hz

    def examples(self, reconstruct, report_image) -> TrainerCallback:
        return ReconstructionSounds(self.items[:3], reconstruct, self.sample_rate_hz)

    def measure(self, model: nn.Module, codes: Tensor, batch: Tensor) -> dict[str, Tensor]:
        rate, ours = self.sample_rate_hz, crop(model.decode(codes), batch.shape)
        measured = {
            "mel_distance": mel_distance(ours, batch, rate),
            "stft_distance": stft_distance(ours, batch),
            "si_sdr": si_sdr(ours, batch),
        }
        for name, score in self._scores.items():
            measured[name] = score(ours, batch, rate).to(batch.device)
        for levels in first_levels(codes.shape[1]):
            part = crop(model.decode(codes[:, :levels]), batch.shape)
            measured[f"mel_distance_first{levels}"] = mel_distance(part, batch, rate)
            measured[f"si_sdr_first{levels}"] = si_sdr(part, batch)
        return measured


def first_levels(num_codebooks: int) -> list[int]:
    """1, 2, 4 and so on, below all of them."""
    return [2**power for power in range(num_codebooks.bit_length()) if 2**power < num_codebooks]


def middle(sound: Tensor, samples: int) -> Tensor:
    """[C, T] to its middle [C, samples], or all of a shorter one."""
    start = max(0, (sound.shape[-1] - samples) // 2)
    return sound[:, start : start + samples]
