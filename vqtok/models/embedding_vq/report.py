"""What an embedding tokenizer keeps of vectors: error, neighbours, collisions, codebook health."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqtok.errors import InputError
from vqtok.metrics.codebook import CodebookStats, level_stats
from vqtok.metrics.vectors import neighbour_recall, relative_error, squared_error


@dataclass(frozen=True)
class EmbeddingReport:
    """Of `vectors` vectors through their codes and back.

    Attributes:
        vectors: N.
        bits: a vector costs.
        squared_error: mean squared distance to the reconstruction.
        relative_error: that over the variance of the vectors; the mean vector alone gives 1.
        recall: share of the true `k` nearest neighbours that the reconstructions still find.
        k: neighbours asked for.
        collisions: share of the vectors that have all codes in common with another one.
        largest_group: the most vectors that have all codes in common.
        codebooks: usage, perplexity and entropy of each codebook.
    """

    vectors: int
    bits: float
    squared_error: float
    relative_error: float
    recall: float
    k: int
    collisions: float
    largest_group: int
    codebooks: list[CodebookStats]


def report_on(
    vectors: Tensor,
    codes: Tensor,
    reconstruction: Tensor,
    codebook_sizes: Sequence[int],
    bits: float,
    k: int,
) -> EmbeddingReport:
    """Vectors and reconstruction [N, D] and codes [N, Q], on the CPU, to their report."""
    if not 1 <= k < vectors.shape[0]:
        raise InputError(
            f"a report on {k} neighbours wants more than {k} vectors, and k of 1 or more; "
            f"got {vectors.shape[0]} vectors."
        )
    groups = torch.unique(codes, dim=0, return_counts=True)[1]
    return EmbeddingReport(
        vectors=vectors.shape[0],
        bits=bits,
        squared_error=squared_error(vectors, reconstruction),
        relative_error=relative_error(vectors, reconstruction),
        recall=neighbour_recall(vectors, reconstruction, k),
        k=k,
        collisions=int(groups[groups > 1].sum()) / vectors.shape[0],
        largest_group=int(groups.max()),
        codebooks=level_stats(codes, codebook_sizes),
    )
