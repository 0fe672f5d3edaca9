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
PROGRESSIVE_STEPS = 10
PROGRESSIVE_MIN_WIDTH = 8  # in fewer dimensions a plain start finds as much
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


def progressive_kmeans(vectors: Tensor, num_centers: int, iterations: int = 10) -> Tensor:
    """k-means in ever more principal components, each time from the centers found before.

    It takes about half as long again as `kmeans`. Its error is lower in many dimensions, where a
    plain start does not find the directions that matter: by 30 % for residual codes of clustered
    vectors, 10,000 x 768, 8 levels of 256.

    Args:
        vectors: [N, D] float32, N >= 1; on any device.
        num_centers: K.
        iterations: Lloyd steps at each number of components.

    Returns:
        [K, D] float32 on the vectors' device.

    Source: the progressive dimension clustering of faiss.
    """
    if vectors.shape[0] <= num_centers or vectors.shape[1] < PROGRESSIVE_MIN_WIDTH:
        return kmeans(vectors, num_centers)
    vectors = _at_most(vectors, num_centers * MAX_VECTORS_PER_CENTER)
    mean = vectors.mean(0)
    components = _principal_components(vectors - mean)
    rotated = (vectors - mean) @ components
    width = vectors.shape[1]
    steps = range(1, PROGRESSIVE_STEPS + 1)
    stages = {round(width ** (step / PROGRESSIVE_STEPS)) for step in steps}
    centers = None
    for part in sorted(stages):
        rows = rotated[:, :part].contiguous()
        if centers is None:
            centers = _seeds(rows, num_centers)
        else:
            centers = F.pad(centers, (0, part - centers.shape[1]))
        for _ in range(iterations):
            centers = _lloyd_step(rows, centers)
    return centers @ components.T + mean


def _principal_components(centered: Tensor) -> Tensor:
    """[D, D] with orthonormal columns, that of the largest variance first."""
    # in float64 on the CPU: a rounded or a device's own decomposition would give other codebooks
    covariance = (centered.T @ centered).double().cpu()
    return torch.linalg.eigh(covariance)[1].flip(1).to(centered)


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
