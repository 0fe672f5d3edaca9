"""Tokenizers of sounds, texts and vectors in a few lines each, with the face of the real ones."""

import io
from types import SimpleNamespace

import numpy as np
import soundfile
import torch

from tests.data.fake import FakeTokens
from vqtok.errors import InputError

HOP = 8


class Fake:
    """What the three share."""

    def __init__(self, decode="d" * 64):
        self.fingerprint = SimpleNamespace(encode="e" * 64, decode=decode, codebook="c" * 64)

    @property
    def name_or_path(self):
        return f"fake/{self.modality}"

    @property
    def num_codebooks(self):
        return len(self.codebook_sizes)

    def tokenize(self, items, batch_size=1, num_codebooks=None):
        tokens = []
        for item in items:
            codes, meta = self._one(item)
            tokens.append(FakeTokens(codes[:num_codebooks], meta, self.fingerprint.decode))
        return tokens

    def detokenize(self, tokens):
        """Tokens, or rows of a run."""
        return [self._back(self._tokens(item)) for item in tokens]

    @staticmethod
    def _tokens(item):
        if not isinstance(item, dict):
            return item
        import json

        codes = torch.as_tensor(np.asarray(item["codes"])).reshape(item["shape"])
        return FakeTokens(codes, json.loads(item["meta"] or "{}"), item["codes_fp"])


class FakeAudio(Fake):
    """The mean of every 8 samples in 1,024 steps, then what it left of the first sample."""

    modality = "audio"
    codebook_sizes = (1024, 1024)
    code_bits = (10.0, 10.0)
    sample_rate_hz = 8000
    channels = 1
    rate = SimpleNamespace(bits=20.0 * 1000, per="second")

    def _read(self, item):
        if isinstance(item, tuple):
            return torch.from_numpy(item[0]), {"samples": item[0].shape[-1]}
        try:
            samples, rate = soundfile.read(io.BytesIO(item), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise InputError(f"no sound: {error}") from error
        if not samples.size:
            raise InputError("no samples", "empty")
        if not np.isfinite(samples).all():
            raise InputError("NaN", "nonfinite")
        if samples.shape[1] != 1 or rate != self.sample_rate_hz:
            raise InputError(f"{samples.shape[1]} channels at {rate} Hz")
        return torch.from_numpy(samples.T.copy()), {"samples": len(samples)}

    def _one(self, item):
        sound, meta = self._read(item)
        padded = torch.nn.functional.pad(sound, (0, -sound.shape[1] % HOP))[0].unflatten(0, (-1, 8))
        mean = padded.mean(1)
        first = (padded[:, 0] - mean) / 2
        return torch.stack([((v + 1) * 511.5).round().long() for v in (mean, first)]), meta

    def _back(self, tokens):
        levels = tokens.codes / 511.5 - 1
        frames = levels[0][:, None].repeat(1, HOP)
        if len(levels) > 1:
            frames[:, 0] += 2 * levels[1]
        return frames.reshape(1, -1)[:, : tokens.meta["samples"]].float().numpy(), 8000


class FakeText(Fake):
    """Every byte a code, but "q" and "Q" share one; what is lost is an escape in the meta."""

    modality = "text"
    codebook_sizes = (256,)
    code_bits = (8.0,)
    rate = SimpleNamespace(bits=8.0, per="byte")

    def _one(self, item):
        data = item.encode("utf-8", "surrogatepass")
        codes = torch.tensor([list(data.replace(b"Q", b"q"))], dtype=torch.int64)
        escapes = [place for place, byte in enumerate(data) if byte == ord("Q")]
        return codes.reshape(1, -1), {"bytes": len(data)} | ({"Q": escapes} if escapes else {})

    def decode(self, codes):
        return codes[:, 0]

    def _back(self, tokens):
        data = bytearray(tokens.codes[0].tolist())
        for place in tokens.meta.get("Q", ()):
            data[place] = ord("Q")
        return bytes(data).decode("utf-8", "surrogatepass")


class FakeVectors(Fake):
    """Four numbers, each rounded to one of 256 in [-4, 4]."""

    modality = "embedding"
    codebook_sizes = (256,) * 4
    code_bits = (8.0,) * 4
    rate = SimpleNamespace(bits=32.0, per="vector")
    config = SimpleNamespace(embedding_dim=4)

    def _one(self, item):
        vector = torch.as_tensor(np.asarray(item, np.float32))
        if vector.shape != (4,):
            raise InputError(f"4 numbers are wanted; got {list(vector.shape)}")
        if not vector.isfinite().all():
            raise InputError("NaN", "nonfinite")
        return ((vector.clamp(-4, 4) + 4) * 255 / 8).round().long()[:, None], {}

    def _back(self, tokens):
        vector = np.zeros(4, np.float32)
        vector[: len(tokens.codes)] = tokens.codes[:, 0].numpy() * 8 / 255 - 4
        return vector


def sound(seed: int, samples: int = 2000, rate: int = 8000, form: str = "WAV", **options) -> bytes:
    """A tone with some noise, as the bytes of a file."""
    rng = np.random.default_rng(seed)
    wave = 0.4 * np.sin(np.arange(samples) * (seed + 1) / 20) + 0.02 * rng.standard_normal(samples)
    out = io.BytesIO()
    soundfile.write(out, wave.astype(np.float32), rate, format=form, **options)
    return out.getvalue()
