"""A tokenizer of ten lines: the mean colour of every 8x8 patch, 4 bits a channel, K = 4,096."""

import io
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageOps

from vqtok.errors import InputError

PATCH = 8


@dataclass
class FakeTokens:
    codes: torch.Tensor
    meta: dict = field(default_factory=dict)
    fingerprint: str = ""


def as_tokens(row):
    codes = torch.as_tensor(row["codes"]).reshape(row["shape"])
    return FakeTokens(codes, {"height": row["orig_h"], "width": row["orig_w"]}, row["codes_fp"])


class FakeProcessor:
    """Reads images as the real ones do, in as little as it takes here."""

    def read(self, item):
        image = item if isinstance(item, Image.Image) else self._open(item)
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        meta = {"height": image.height, "width": image.width}
        return pixels / 127.5 - 1, meta

    def write(self, pixels):
        levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).numpy())

    def _open(self, data):
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > 178_000_000:
                    raise InputError(f"{image.width} x {image.height} pixels", "too_large")
                return ImageOps.exif_transpose(image)
        except Image.DecompressionBombError as error:
            raise InputError(str(error), "too_large") from error
        except (OSError, SyntaxError) as error:
            raise InputError(f"not an image: {error}") from error


class FakeTokenizer:
    modality = "image"
    codebook_sizes = (4096,)
    code_bits = (12.0,)
    num_codebooks = 1
    name_or_path = "fake/mean-colour"
    processor = FakeProcessor()
    rate = SimpleNamespace(bits=12 / 64, per="pixel")

    def __init__(self, encode="e" * 64, decode="d" * 64, codebook="c" * 64):
        self.fingerprint = SimpleNamespace(encode=encode, decode=decode, codebook=codebook)
        self.batches = []  # batch sizes that were asked for

    def tokenize(self, items, batch_size=1, num_codebooks=None):
        self.batches.append(batch_size)
        return [self._one(item) for item in items]

    def _one(self, item):
        pixels, meta = self.processor.read(item)
        height, width = (-(-n // PATCH) * PATCH for n in pixels.shape[1:])
        padded = torch.nn.functional.pad(
            pixels[None], (0, width - pixels.shape[2], 0, height - pixels.shape[1]), "replicate"
        )
        means = torch.nn.functional.avg_pool2d(padded, PATCH)[0]
        r, g, b = ((means + 1) * 7.5).round().long()
        return FakeTokens((r * 256 + g * 16 + b)[None], meta, self.fingerprint.decode)

    def detokenize(self, tokens):
        """Tokens, or rows of a run."""
        return [self._back(as_tokens(t) if isinstance(t, dict) else t) for t in tokens]

    def _back(self, item):
        code = item.codes[0]
        levels = torch.stack([code // 256, code // 16 % 16, code % 16]) / 7.5 - 1
        pixels = levels.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
        return self.processor.write(pixels[:, : item.meta["height"], : item.meta["width"]])


class TwoLevels(FakeTokenizer):
    """Two codebooks: the mean colour, and its complement in a codebook of 70,000."""

    codebook_sizes = (4096, 70_000)
    code_bits = (12.0, math.log2(70_000))
    num_codebooks = 2

    def _one(self, item):
        tokens = super()._one(item)
        codes = torch.cat([tokens.codes, 69_999 - tokens.codes])
        return FakeTokens(codes, tokens.meta, tokens.fingerprint)

    def tokenize(self, items, batch_size=1, num_codebooks=None):
        tokens = super().tokenize(items, batch_size)
        return [FakeTokens(t.codes[:num_codebooks], t.meta, t.fingerprint) for t in tokens]
