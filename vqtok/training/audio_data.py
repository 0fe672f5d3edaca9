"""Sounds for training: read once, cut on the fly, the same excerpts every time.

Sample number `i` of a run is a pure function of (seed, i): which sound, from where on, how loud,
and what is heard beside it. An interrupted run that continues at sample `i` therefore hears what
it would have heard.

Shapes: sounds are float32 [C, T] in about [-1, 1]; batches float32 [B, C, crop].
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vqtok.errors import ConfigError, InputError
from vqtok.models.audio import read_audio, resample, sound_name
from vqtok.training.files import Encoded, find_items

logger = logging.getLogger(__name__)

# those of vqtok.data.modalities, which this floor cannot see; a test holds the two together
AUDIO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in ("wav", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "au", "w64", "caf")
)
PCM_PEAK = 32_767
SILENCE_DB = -50.0  # below this an excerpt is drawn again: nothing is learned from silence
DRAWS = 8  # then silence it is
MIX_DB = (-15.0, 0.0)  # how loud the second sound of a mixture is, beside the first


class AudioStore(Sequence):
    """The sounds of a folder or of parquet files at one rate, in memory as 16-bit samples.

    A tokenizer of one channel hears every channel of a recording as a sound of its own.

    Args:
        source: a folder (sounds and parquet files, in the order of their names, hidden ones left
            out), a parquet file, or a sound.
        sample_rate_hz: of the tokenizer; every sound is resampled to it.
        channels: of the tokenizer.
        column: the parquet column, a struct with `bytes` and `path`, or plain bytes.
        limit: keep the first recordings only.
        memory_mb: samples beyond this much stay encoded and are decoded at every access.

    Attributes:
        lengths: int64 [N], samples of each sound.

    Raises:
        ConfigError: the source does not exist or holds no sound.
        InputError: a sound cannot be read, or has too few channels; the message names it.
    """

    def __init__(
        self,
        source: str | Path,
        sample_rate_hz: int,
        channels: int = 1,
        column: str = "audio",
        limit: int | None = None,
        memory_mb: int = 4096,
    ):
        self.sample_rate_hz, self.channels = sample_rate_hz, channels
        self._sounds: list[np.ndarray | tuple[Encoded, int]] = []
        lengths = []
        budget = memory_mb * 2**20
        for number, item in enumerate(find_items(Path(source), AUDIO_SUFFIXES, column)):
            if limit is not None and number >= limit:
                break
            for place, sound in enumerate(self._read(item)):
                keep = budget > 0
                budget -= sound.nbytes if keep else 0
                self._sounds.append(sound if keep else (item, place))
                lengths.append(sound.shape[-1])
        if not self._sounds:
            raise ConfigError(
                f"training wants sounds in {source}, but found none: give a folder of "
                f"{', '.join(sorted(AUDIO_SUFFIXES))} files or parquet with column {column!r}."
            )
        self.lengths = np.array(lengths, np.int64)
        seconds = self.lengths.sum() / sample_rate_hz
        encoded = sum(not isinstance(sound, np.ndarray) for sound in self._sounds)
        logger.info(
            "%d sounds, %.1f minutes, from %s, %d of them kept encoded",
            len(self), seconds / 60, source, encoded,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._sounds)

    def __getitem__(self, index: int) -> Tensor:
        """float32 [C, T]."""
        return self.excerpt(index, 0, int(self.lengths[index]))

    def excerpt(self, index: int, start: int, samples: int) -> Tensor:
        """float32 [C, at most `samples`] of a sound, from sample `start` on."""
        sound = self._sounds[index]
        if not isinstance(sound, np.ndarray):
            item, place = sound
            sound = self._read(item)[place]
        part = sound[:, start : start + samples]
        return torch.from_numpy(part.astype(np.float32) / PCM_PEAK)

    def _read(self, item: Encoded) -> list[np.ndarray]:
        """A recording as sounds of the tokenizer's channels: int16 [C, T] each."""
        waveform, rate = read_audio(item)
        if len(waveform) % self.channels:
            raise InputError(
                f"{sound_name(item)} has {len(waveform)} channels, the tokenizer takes "
                f"{self.channels}: training wants as many, or a multiple."
            )
        waveform = resample(torch.from_numpy(waveform), rate, self.sample_rate_hz)
        pcm = (waveform.clamp(-1, 1) * PCM_PEAK).round().to(torch.int16).numpy()
        return [pcm[i : i + self.channels] for i in range(0, len(pcm), self.channels)]


class RandomExcerpts(Dataset):
    """A run's whole stream of excerpts, as one long list: item i depends on (seed, i) only.

    Every sample of every sound is as likely as any other to be heard. A sound shorter than an
    excerpt is heard whole, with silence around it. Nothing is made louder than full scale.

    Args:
        store: the sounds.
        length: excerpts in the run: steps x batch x accumulation x processes.
        crop: samples of an excerpt.
        gain_db: the least and the most that an excerpt is turned up, drawn evenly.
        mix: how often a second excerpt, as loud or less, is added: 0 to 1.
    """

    def __init__(
        self,
        store: AudioStore,
        length: int,
        crop: int,
        seed: int,
        gain_db: tuple[float, float] = (0.0, 0.0),
        mix: float = 0.0,
    ):
        if length < 1 or crop < 1 or gain_db[0] > gain_db[1] or not 0 <= mix <= 1:
            raise ConfigError(
                "excerpts want length >= 1, crop >= 1, gain_db in order and mix in 0 to 1; got "
                f"length={length}, crop={crop}, gain_db={tuple(gain_db)}, mix={mix}."
            )
        self.store, self.length, self.crop, self.seed = store, length, crop, seed
        self.gain_db, self.mix = gain_db, mix
        self._ends = store.lengths.cumsum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        """float32 [C, crop]."""
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of a run of {self.length}")
        rng = np.random.default_rng((self.seed, index))
        sound = self._audible(rng)
        if rng.random() < self.mix:
            other = self._audible(rng)
            level = 10 ** (rng.uniform(*MIX_DB) / 20)
            sound = sound + other * level * loudness(sound) / max(loudness(other), 1e-6)
        gain = 10 ** (rng.uniform(*self.gain_db) / 20)
        return sound * min(gain, 1.0 / max(float(sound.abs().max()), 1e-6))

    def _audible(self, rng: np.random.Generator) -> Tensor:
        threshold = 10 ** (SILENCE_DB / 20)
        for _ in range(DRAWS):
            excerpt = self._draw(rng)
            if loudness(excerpt) > threshold:
                break
        return excerpt

    def _draw(self, rng: np.random.Generator) -> Tensor:
        sound = int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))
        spare = int(self.store.lengths[sound]) - self.crop
        start = int(rng.integers(abs(spare) + 1))
        if spare >= 0:
            return self.store.excerpt(sound, start, self.crop)
        whole = self.store[sound]
        return torch.nn.functional.pad(whole, (start, self.crop - whole.shape[-1] - start))


def loudness(sound: Tensor) -> float:
    """Root mean square."""
    return float(sound.square().mean().sqrt())


def collate_excerpts(excerpts: list[Tensor]) -> dict[str, Tensor]:
    """What the model's forward takes: `input_values` float32 [B, C, T]."""
    return {"input_values": torch.stack(excerpts)}
