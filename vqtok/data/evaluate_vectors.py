"""Rate and distortion of an embedding tokenizer, with float16, int8 and product quantization.

All vectors are held in memory: who is whose neighbour is a question about all of them.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vqtok.data.meters import Beside, EvaluationReport, Meter
from vqtok.errors import InputError
from vqtok.metrics import classical_vectors as plain
from vqtok.metrics.vectors import neighbour_recall, relative_error, squared_error

NEIGHBOURS = 10


@dataclass(frozen=True, kw_only=True)
class VectorReport(EvaluationReport):
    """Of vectors of width D.

    Attributes:
        vectors: how many were measured.
        bits_per_vector: of the codes.
        mse: mean squared error of a number: `squared_error` over D.
        squared_error: mean squared distance of a vector.
        relative_error: squared error over variance; 1 is what the mean vector would give.
        cosine: mean cosine between a vector and what came back.
        recall_at_10: share of the 10 nearest neighbours kept; None for 10 vectors or fewer.
    """

    modality = "embedding"
    vectors: int
    width: int
    bits_per_vector: float
    mse: float
    squared_error: float
    relative_error: float
    cosine: float
    recall_at_10: float | None

    @property
    def items(self) -> int:
        return self.vectors


class VectorMeter(Meter):
    """Vectors are float32, as the tokenizer takes them."""

    modality = "embedding"

    def __init__(self, *options: Any, **named: Any):
        super().__init__(*options, **named)
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []
        self.bits = 0.0

    def read(self, data: Any) -> np.ndarray:
        with np.errstate(over="ignore"):
            vector = np.asarray(data, np.float32)
        width = getattr(getattr(self.tokenizer, "config", None), "embedding_dim", vector.size)
        if vector.shape != (width,):
            raise InputError(f"a vector of {list(vector.shape)} numbers; {width} are wanted")
        if not np.isfinite(vector).all():
            raise InputError("a NaN or an infinity", "nonfinite")
        return vector

    def add(self, original: np.ndarray, tokens: Any, back: np.ndarray) -> None:
        self.bits += self.count(tokens.codes)
        self.before.append(original)
        self.after.append(np.asarray(back, np.float32))

    def report(self, status: Counter[str]) -> VectorReport:
        before, after = (torch.from_numpy(np.stack(part)) for part in (self.before, self.after))
        bits = self.bits / len(before)
        ours = measure(before, after, bits)
        beside = list(self.codecs(before, bits, ours)) if self.classical else []
        values = {name: ours[name] for name in ours if name != "bits_per_vector"}
        return VectorReport(
            vectors=len(before),
            width=before.shape[1],
            bits_per_vector=bits,
            squared_error=squared_error(before, after),
            **values,
            **self.common(status, beside),
        )

    def codecs(self, vectors: Tensor, bits: float, ours: dict[str, float]) -> list[Beside]:
        """float16 and int8, which take more bits, and a product quantizer that takes no more."""
        rows = []
        for name, round_trip in (
            ("float16", plain.float16_round_trip),
            ("int8", plain.int8_round_trip),
        ):
            beside = Beside(name, "at its own rate")
            back, taken = round_trip(vectors)
            beside.add(measure(vectors, back, taken), ours, len(vectors))
            rows.append(beside)
        reason = plain.why_no_pq(vectors, bits)
        beside = Beside("faiss PQ", reason or "fitted to these very vectors; codes of 8 bits")
        if not reason:
            back, taken = plain.pq_round_trip(vectors, bits)
            beside.add(measure(vectors, back, taken), ours, len(vectors))
        rows.append(beside)
        for row in rows:
            row.covers = len(vectors)
        return rows


def measure(before: Tensor, after: Tensor, bits: float) -> dict[str, float | None]:
    """The numbers of all vectors [N, D] in the table of codecs."""
    enough = len(before) > NEIGHBOURS
    return {
        "bits_per_vector": bits,
        "mse": squared_error(before, after) / before.shape[1],
        "relative_error": relative_error(before, after),
        "cosine": cosine_similarity(before, after).mean().item(),
        "recall_at_10": neighbour_recall(before, after, NEIGHBOURS) if enough else None,
    }
