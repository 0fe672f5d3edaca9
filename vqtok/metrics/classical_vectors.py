"""Plain ways to store vectors in fewer bits: float16, int8, and faiss's product quantizer.

Vectors are float32 [N, D]; each function gives them back as they would be read, and the bits that
one of them takes.
"""

import importlib.util

import torch
from torch import Tensor

from vqtok.errors import ConfigError

SCALE_BITS = 32
INT8_PEAK = 127
PQ_BITS = 8  # of one code
MIN_TRAINING = 39  # vectors a code, under which faiss warns that it has too few


def float16_round_trip(vectors: Tensor) -> tuple[Tensor, float]:
    """Every number rounded to half precision."""
    return vectors.half().float(), 16.0 * vectors.shape[1]


def int8_round_trip(vectors: Tensor) -> tuple[Tensor, float]:
    """Every vector divided by a float32 scale of its own and rounded to -127 to 127."""
    scale = vectors.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    steps = (vectors / scale * INT8_PEAK).round()
    return steps / INT8_PEAK * scale, 8.0 * vectors.shape[1] + SCALE_BITS


def why_no_pq(vectors: Tensor, bits: float) -> str:
    """Why a product quantizer of about so many bits cannot be fitted; empty if it can."""
    if importlib.util.find_spec("faiss") is None:
        return "not installed: pip install vqtok[faiss]"
    if len(vectors) < MIN_TRAINING * 2**PQ_BITS:
        return f"too few vectors to fit it: {len(vectors)} of {MIN_TRAINING * 2**PQ_BITS}"
    if pq_parts(vectors.shape[1], bits) == 0:
        return f"it takes at least {PQ_BITS} bits a vector"
    return ""


def pq_parts(width: int, bits: float) -> int:
    """The most equal parts of a vector that codes of 8 bits fit `bits` with; 0 if none do."""
    fitting = [parts for parts in range(1, width + 1) if width % parts == 0]
    return max((parts for parts in fitting if parts * PQ_BITS <= bits), default=0)


def pq_round_trip(vectors: Tensor, bits: float) -> tuple[Tensor, float]:
    """faiss's ProductQuantizer, fitted to these very vectors, at no more than `bits` a vector.

    Raises:
        ConfigError: it cannot be fitted; `why_no_pq` says why.
    """
    if reason := why_no_pq(vectors, bits):
        raise ConfigError(f"no product quantizer: {reason}.")
    import faiss

    parts = pq_parts(vectors.shape[1], bits)
    quantizer = faiss.ProductQuantizer(vectors.shape[1], parts, PQ_BITS)
    array = vectors.float().contiguous().numpy()
    quantizer.train(array)
    back = quantizer.decode(quantizer.compute_codes(array))
    return torch.from_numpy(back), float(parts * PQ_BITS)
