"""Rate and exactness of a text tokenizer, with gzip and xz on the same texts."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vqtok.data.meters import Beside, EvaluationReport, Meter
from vqtok.metrics.classical_text import CODECS, compressed_bytes

PIECE_CODES = 1 << 14  # decoded at once
NOTE = "every text a file of its own, all bytes counted"


@dataclass(frozen=True, kw_only=True)
class TextReport(EvaluationReport):
    """Of texts.

    Attributes:
        texts: how many were measured; `bytes` of UTF-8 in all of them.
        bits_per_byte: of the codes alone, over all bytes.
        bits_per_byte_with_escapes: with what makes them exact (the tokenizer's `bits_of`).
        byte_accuracy: share of the bytes that the codes alone give back.
        exact: share of the texts that came back as they were.
    """

    modality = "text"
    texts: int
    bytes: int
    bits_per_byte: float
    bits_per_byte_with_escapes: float
    byte_accuracy: float
    exact: float

    @property
    def items(self) -> int:
        return self.texts


class TextMeter(Meter):
    """Texts are UTF-8; a lone surrogate counts as the three bytes that Python gives it."""

    modality = "text"

    def __init__(self, *options: Any, **named: Any):
        super().__init__(*options, **named)
        self.texts = self.bytes = self.right = self.exact = 0
        self.bits = self.exact_bits = 0.0
        self.beside = {codec: Beside(codec, NOTE) for codec in CODECS if self.classical}
        self.packed: Counter[str] = Counter()

    def read(self, data: str) -> str:
        return data

    def add(self, original: str, tokens: Any, back: str) -> None:
        data = to_bytes(original)
        self.texts += 1
        self.bytes += len(data)
        self.bits += self.count(tokens.codes)
        self.exact_bits += self.bits_of(tokens)
        self.right += self.right_bytes(data, tokens.codes)
        self.exact += back == original
        for codec in self.beside:
            self.packed[codec] += compressed_bytes(data, codec)

    def bits_of(self, tokens: Any) -> float:
        """Codes and escapes of one text; a tokenizer that does not say pays for all its meta."""
        if hasattr(self.tokenizer, "bits_of"):
            return self.tokenizer.bits_of(tokens)
        pairs = zip(tokens.codes, self.code_bits, strict=True)
        return sum(n.numel() * b for n, b in pairs) + 8 * len(json.dumps(tokens.meta))

    def right_bytes(self, data: bytes, codes: torch.Tensor) -> int:
        """Bytes that the codes alone give back."""
        pieces = [piece for piece in codes.split(PIECE_CODES, 1) if piece.shape[1]]
        with torch.no_grad():
            device = getattr(self.tokenizer, "device", "cpu")
            found = [self.tokenizer.decode(piece[None].to(device))[0].cpu() for piece in pieces]
        if not found:
            return 0
        values = torch.cat(found).numpy()[: len(data)]
        return int((values == np.frombuffer(data, np.uint8)[: len(values)]).sum())

    def report(self, status: Counter[str]) -> TextReport:
        size = max(1, self.bytes)
        ours = {"bits_per_byte": self.exact_bits / size}
        for codec, beside in self.beside.items():
            beside.add({"bits_per_byte": 8 * self.packed[codec] / size}, ours, self.texts)
        return TextReport(
            texts=self.texts,
            bytes=self.bytes,
            bits_per_byte=self.bits / size,
            bits_per_byte_with_escapes=self.exact_bits / size,
            byte_accuracy=self.right / size if self.bytes else 1.0,
            exact=self.exact / self.texts,
            **self.common(status, self.beside.values()),
        )


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
