"""How well vectors come back: squared error, and whether neighbours stay neighbours.

N vectors of width D.
"""

import torch
from torch import Tensor

from vqtok.errors import ConfigError, ShapeError

MAX_BLOCK_FLOATS = 2**24  # of a query-by-vector matrix


def squared_error(vectors: Tensor, reconstruction: Tensor) -> float:
    """Mean over N of the squared distance, both [N, D]: what k-means calls its objective."""
    _check(vectors, reconstruction)
    return float((vectors.double() - reconstruction.double()).square().sum(1).mean())


def relative_error(vectors: Tensor, reconstruction: Tensor) -> float:
    """Squared error over variance: 0 is perfect, 1 is what the mean vector alone would give."""
    centered = vectors.double() - vectors.double().mean(0)
    variance = float(centered.square().sum(1).mean())
    error = squared_error(vectors, reconstruction)
    return error / variance if variance else float(error > 0)


def neighbour_recall(
    vectors: Tensor, reconstruction: Tensor, k: int = 10, max_queries: int = 1000
) -> float:
    """Share of each vector's k nearest neighbours that are still found by the reconstructions.

    A query is an original vector; it is looked up among the others, once as they were and once as
    they came back. Distances are Euclidean, and a vector is not its own neighbour.

    Args:
        vectors: [N, D] float, N > k.
        reconstruction: [N, D].
        k: neighbours a query.
        max_queries: queries, spread evenly over the N vectors.
    """
    _check(vectors, reconstruction)
    if not 1 <= k < vectors.shape[0] or max_queries < 1:
        raise ConfigError(
            f"neighbour_recall wants 1 <= k < N and max_queries >= 1; got k={k}, "
            f"N={vectors.shape[0]}, max_queries={max_queries}."
        )
    total = vectors.shape[0]
    asked = min(max_queries, total)
    queries = torch.arange(asked, device=vectors.device) * total // asked
    found = 0
    for part in queries.split(max(1, MAX_BLOCK_FLOATS // total)):
        true = _neighbours(vectors, vectors, part, k)
        now = _neighbours(vectors, reconstruction, part, k)
        found += int((true[:, :, None] == now[:, None]).sum())
    return found / (k * asked)


def _neighbours(vectors: Tensor, database: Tensor, queries: Tensor, k: int) -> Tensor:
    """Rows of the database [N, D] nearest to the vectors `queries` [n]: int64 [n, k]."""
    # a mean far from the origin would drown the differences
    center = database.float().mean(0)
    database = database.float() - center
    scores = database.square().sum(1) - 2 * (vectors[queries].float() - center) @ database.T
    scores[torch.arange(queries.shape[0], device=scores.device), queries] = torch.inf
    return scores.topk(k, largest=False).indices


def _check(vectors: Tensor, reconstruction: Tensor) -> None:
    if vectors.ndim != 2 or vectors.shape != reconstruction.shape or 0 in vectors.shape:
        raise ShapeError(
            "vectors and reconstruction must both be [N, D] with N and D at least 1; "
            f"got {list(vectors.shape)} and {list(reconstruction.shape)}."
        )
