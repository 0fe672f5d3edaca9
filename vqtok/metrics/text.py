"""How well bytes of text come back, and what a token of a fixed vocabulary costs.

Byte values are int64 [B, L], 0 to 255; texts of other tokenizers are counted in UTF-8 bytes.
"""

import math

import torch
from torch import Tensor

from vqtok.errors import ConfigError, ShapeError


def byte_accuracy(ours: Tensor, theirs: Tensor, padding: int = 256) -> Tensor:
    """Share of the bytes of each text that are right: float64 [B].

    Args:
        ours: int64 [B, L], decoded bytes.
        theirs: int64 [B, L], the text; where it is `padding` nothing counts.
        padding: a number that is no byte.

    Returns:
        1.0 for a text without a byte.
    """
    if ours.ndim != 2 or ours.shape != theirs.shape:
        raise ShapeError(
            f"byte_accuracy wants two batches of bytes [B, L]; got {list(ours.shape)} and "
            f"{list(theirs.shape)}."
        )
    counts = theirs != padding
    total = counts.sum(1)
    right = ((ours == theirs) & counts).sum(1)
    return torch.where(total > 0, right.double() / total.clamp(min=1), 1.0)


def vocabulary_bits_per_byte(num_tokens: int, vocab_size: int, num_bytes: int) -> float:
    """Bits per byte of a text in tokens of a fixed vocabulary: log2(V) each, no entropy coder.

    What a BPE tokenizer costs by the same count that `code_bits` uses for codes.
    """
    if vocab_size < 2 or num_bytes < 1 or num_tokens < 0:
        raise ConfigError(
            "vocabulary_bits_per_byte wants vocab_size >= 2, num_bytes >= 1 and num_tokens >= 0; "
            f"got {vocab_size}, {num_bytes} and {num_tokens}."
        )
    return num_tokens * math.log2(vocab_size) / num_bytes
