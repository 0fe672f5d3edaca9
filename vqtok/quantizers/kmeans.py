"""k-means on real latents: where a codebook starts.

N vectors, K centers, D width. All random numbers come from torch's global CPU generator, so a
seed gives the same start on every device.

Source: Lloyd 1982; seeds drawn by squared distance in growing batches after Bahmani et al. 2012,
arXiv 1203.6402 (k-means||), because a uniform draw misses small clusters.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtok.ops.nearest import nearest_code

# more vectors than this per center change the centers by less than the training that follows
MAX_VECTORS_PER_CENTER = 256
# relative to the spread of the data: enough to tell copies of one vector apart
TIE_NOISE = 1e-2


def kmeans(
    vectors: Tensor, num_centers: int, iterations: int = 10, unit_norm: bool = False
) -> Tensor:
    """Lloyd's k-means; centers that hardly matter go to halve the largest clusters.

    Args:
        vectors: [N, D] float32, N >= 1. With N < K the vectors repeat with a little noise.
        num_centers: K.
        iterations: Lloyd steps.
        unit_norm: vectors have length 1 and so shall the centers (spherical k-means).

    Returns:
        [K, D] float32 on the vectors' device.
    """
    if vectors.shape[0] <= num_centers:
        return _onto_sphere(_repeated(vectors, num_centers), unit_norm)
    vectors = _at_most(vectors, num_centers * MAX_VECTORS_PER_CENTER)
    centers = _onto_sphere(_seeds(vectors, num_centers), unit_norm)
    for _ in range(iterations):
        centers = _onto_sphere(_lloyd_step(vectors, centers), unit_norm)
    return centers


def cluster_sums(vectors: Tensor, codes: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Counts [K] and sums [K, D] of the vectors [N, D] by code [N], with no N x K one-hot."""
    counts = vectors.new_zeros(num_codes).index_add_(0, codes, vectors.new_ones(codes.shape[0]))
    sums = vectors.new_zeros(num_codes, vectors.shape[1]).index_add_(0, codes, vectors)
    return counts, sums


def _lloyd_step(vectors: Tensor, centers: Tensor) -> Tensor:
    codes = nearest_code(vectors, centers)
    counts, sums = cluster_sums(vectors, codes, centers.shape[0])
    moved = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
    costs = torch.zeros_like(counts).index_add_(0, codes, _cost(vectors, moved[codes]))
    weak, parents = _swaps(moved, counts, costs)
    if len(weak):
        moved[weak] = moved[parents] + jitter(moved, len(weak))
    return moved


def _swaps(centers: Tensor, counts: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """Centers that serve better as the second half of a large cluster: both int64 [n].

    In many dimensions the mean of a large cluster is nearer to everything than any single vector
    is, so centers that start alone stay alone (seen: 118 of 128 on the residual of noise). Without
    a center its vectors pay the way to the next one; a cluster cut in two by a random plane gains
    2 / pi of its mean variance per dimension.
    """
    between = torch.cdist(centers, centers)
    between.fill_diagonal_(torch.inf)
    losses = torch.where(counts > 0, counts * between.amin(1).square(), 0)
    gains = costs * (2 / math.pi / centers.shape[1])
    limit = centers.shape[0] // 2  # nobody is on both lists
    weakest = losses.topk(limit, largest=False)
    largest = gains.topk(limit)
    pays = weakest.values < largest.values
    return weakest.indices[pays], largest.indices[pays]


def _seeds(vectors: Tensor, num_centers: int) -> Tensor:
    first = torch.randperm(vectors.shape[0])[: max(1, num_centers // 16)]
    centers = vectors[first.to(vectors.device)]
    while (missing := num_centers - centers.shape[0]) > 0:
        cost = _cost(vectors, centers[nearest_code(vectors, centers)])
        more = _draw(cost, min(missing, centers.shape[0]))
        centers = torch.cat([centers, vectors[more]])
    return centers


def _cost(vectors: Tensor, centers: Tensor) -> Tensor:
    return (vectors - centers).square().sum(1)


def _draw(weights: Tensor, count: int) -> Tensor:
    """`count` different indices, by weight: the largest w / Exp(1), which has no limit on N."""
    scores = weights / torch.empty(weights.shape[0]).exponential_().to(weights.device)
    return scores.topk(count).indices


def _at_most(vectors: Tensor, limit: int) -> Tensor:
    if vectors.shape[0] <= limit:
        return vectors
    return vectors[torch.randperm(vectors.shape[0])[:limit].to(vectors.device)]


def _repeated(vectors: Tensor, count: int) -> Tensor:
    """[N, D] to [count, D]: every vector once, then noisy copies."""
    present = vectors.shape[0]
    rows = torch.arange(count, device=vectors.device) % present
    noise = jitter(vectors, count)
    noise[:present] = 0
    return vectors[rows] + noise


def jitter(vectors: Tensor, count: int) -> Tensor:
    """[count, D] of noise, little beside the spread of the vectors [N, D]."""
    spread = (vectors - vectors.mean(0)).square().mean().sqrt()
    # one vector alone has no spread: its own size says what is little
    scale = torch.where(spread > 0, spread, vectors.square().mean().sqrt() + TIE_NOISE)
    return torch.randn(count, vectors.shape[1]).to(vectors.device) * scale * TIE_NOISE


def _onto_sphere(vectors: Tensor, unit_norm: bool) -> Tensor:
    return F.normalize(vectors, dim=-1) if unit_norm else vectors
