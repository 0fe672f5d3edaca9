"""The codebook alone: its start, its running means, its dead codes."""

import faiss
import pytest
import torch
from vector_quantize_pytorch import VectorQuantize

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics import code_counts, codebook_stats
from vqtok.quantizers import Codebook
from vqtok.quantizers.kmeans import kmeans
from vqtok.quantizers.revival import thinned

CLUSTERS, WIDTH = 64, 8


def clustered(count: int, seed: int = 0) -> torch.Tensor:
    """Vectors around 64 far centers, the same centers for every seed."""
    centers = torch.randn(CLUSTERS, WIDTH, generator=torch.Generator().manual_seed(99)) * 10
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(CLUSTERS, (count,), generator=generator)
    return centers[rows] + torch.randn(count, WIDTH, generator=generator)


def inertia(vectors, centers) -> float:
    return torch.cdist(vectors.double(), centers.double()).amin(1).square().sum().item()


def step(codebook, vectors):
    vectors = codebook.prepare(vectors)
    codes = codebook.nearest(vectors)
    codebook.gather(vectors, codes)
    codebook.upkeep()
    return codes


def usage(codebook, vectors) -> float:
    return codebook_stats(code_counts(codebook.nearest(vectors), codebook.codebook_size)).usage


# k-means


@pytest.mark.parametrize("data", [clustered(8000), torch.randn(8000, WIDTH)])
def test_kmeans_is_as_good_as_faiss(data):
    reference = faiss.Kmeans(WIDTH, 256, niter=10, seed=1, max_points_per_centroid=10**6)
    reference.train(data.numpy())
    theirs = inertia(data, torch.from_numpy(reference.centroids))

    ours = inertia(data, kmeans(data, 256))

    assert ours < 1.03 * theirs
    assert ours < 0.9 * inertia(data, data[torch.randperm(8000)[:256]])


def test_kmeans_finds_clusters_that_a_uniform_draw_would_miss():
    rare = torch.full((20, WIDTH), 100.0) + torch.randn(20, WIDTH)
    data = torch.cat([torch.randn(5000, WIDTH), rare])

    centers = kmeans(data, 32)

    assert torch.cdist(rare, centers).amin(1).max() < 10


def test_spherical_kmeans_stays_on_the_sphere():
    data = torch.nn.functional.normalize(torch.randn(500, WIDTH), dim=-1)

    centers = kmeans(data, 20, unit_norm=True)

    torch.testing.assert_close(centers.norm(dim=-1), torch.ones(20))


@pytest.mark.parametrize("count", [1, 5, 32])
def test_with_fewer_vectors_than_codes_every_vector_is_a_code(count):
    data = torch.randn(count, WIDTH)

    centers = kmeans(data, 32)

    assert centers.shape == (32, WIDTH)
    assert inertia(data, centers) < 1e-10
    assert centers.unique(dim=0).shape[0] == 32
    assert torch.cdist(centers, data).amin(1).max() < 0.1 * (1 + data.norm(dim=-1).max())


def test_kmeans_repeats_from_a_seed():
    data = torch.randn(500, WIDTH)
    torch.manual_seed(5)
    first = kmeans(data, 20)
    torch.manual_seed(5)

    assert torch.equal(kmeans(data, 20), first)


def test_initialization_needs_a_vector_of_the_right_width():
    codebook = Codebook(8, WIDTH)

    with pytest.raises(ShapeError, match="at least one"):
        codebook.initialize(torch.zeros(0, WIDTH))
    with pytest.raises(ShapeError, match="vectors"):
        codebook.initialize(torch.zeros(5, WIDTH + 1))
    codebook.initialize_once(torch.zeros(0, WIDTH))

    assert not codebook.is_initialized


def test_only_the_first_initialize_once_counts():
    codebook = Codebook(8, WIDTH)
    codebook.initialize_once(torch.randn(100, WIDTH))
    codes = codebook.codes.clone()

    codebook.initialize_once(torch.randn(100, WIDTH))

    assert codebook.is_initialized
    assert torch.equal(codebook.codes, codes)


# Running means


def test_ema_is_that_of_vector_quantize_pytorch():
    theirs = VectorQuantize(
        dim=WIDTH, codebook_size=32, decay=0.9, threshold_ema_dead_code=0, rotation_trick=False
    ).train()
    ours = Codebook(32, WIDTH, decay=0.9, revive_below=0).train()
    inner = theirs._codebook
    codes = torch.randn(32, WIDTH)
    inner.embed.data.copy_(codes[None])
    inner.embed_avg.data.copy_(codes[None])
    inner.cluster_size.data.fill_(1)
    ours.codes.copy_(codes)
    ours.code_sums.copy_(codes)

    for _ in range(20):
        vectors = torch.randn(400, WIDTH)
        _, their_codes, _ = theirs(vectors[None])
        our_codes = step(ours, vectors)
        assert torch.equal(our_codes, their_codes[0])

    torch.testing.assert_close(ours.code_counts, inner.cluster_size[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.code_sums, inner.embed_avg[0], rtol=1e-5, atol=1e-5)
    # theirs is smoothed by an epsilon
    torch.testing.assert_close(ours.codes, inner.embed[0], rtol=1e-4, atol=1e-5)


def test_a_code_without_a_vector_keeps_its_place_to_the_last_bit():
    codebook = Codebook(4, WIDTH, revive_below=0).train()
    codes = codebook.codes.clone()

    for _ in range(300):
        vectors = codes[:2] + torch.randn(2, WIDTH) * 0.01
        codebook.gather(vectors, torch.tensor([0, 1]))
        codebook.upkeep()

    assert torch.equal(codebook.codes[2:], codes[2:])
    assert not torch.equal(codebook.codes[:2], codes[:2])


def test_upkeep_without_statistics_changes_nothing():
    codebook = Codebook(4, WIDTH).train()
    codebook.initialize(torch.randn(50, WIDTH))
    counts = codebook.code_counts.clone()

    codebook.upkeep()

    assert torch.equal(codebook.code_counts, counts)


def test_unit_norm_codes_stay_on_the_sphere():
    codebook = Codebook(16, WIDTH, unit_norm=True, revive_below=0.5).train()

    for _ in range(10):
        step(codebook, torch.randn(100, WIDTH) * 5)

    torch.testing.assert_close(codebook.codes.norm(dim=-1), torch.ones(16))


def test_an_ema_codebook_comes_near_the_best_codebook():
    codebook = Codebook(64, WIDTH, decay=0.9).train()
    codebook.initialize(torch.rand(64, WIDTH))

    for _ in range(100):
        step(codebook, torch.randn(500, WIDTH))

    held_out = torch.randn(4000, WIDTH)
    assert inertia(held_out, codebook.codes) < 1.1 * inertia(held_out, kmeans(held_out, 64))


# Dead codes


def collapsed(learning="ema", revive_by="random") -> Codebook:
    """128 codes of which all but a handful are far from every vector."""
    codebook = Codebook(
        128, WIDTH, learning, decay=0.9, revive_below=0.1, revive_by=revive_by
    ).train()
    with torch.no_grad():
        codebook.codes.add_(1000).mul_(torch.linspace(1, 2, 128)[:, None])
        codebook.codes[:4] = clustered(4)
        if learning == "ema":
            codebook.code_sums.copy_(codebook.codes)
    return codebook


@pytest.mark.parametrize("learning", ["ema", "gradient"])
@pytest.mark.parametrize("revive_by", ["random", "split"])
def test_dead_codes_are_revived(learning, revive_by):
    codebook = collapsed(learning, revive_by)
    held_out = clustered(10000, seed=1000)
    assert usage(codebook, held_out) < 0.05

    optimizer = torch.optim.Adam(codebook.parameters(), lr=0.2) if learning != "ema" else None

    for seed in range(150):
        vectors = clustered(2000, seed)
        codes = step(codebook, vectors)
        if optimizer:
            optimizer.zero_grad()
            (codebook.lookup(codes) - vectors).square().mean().backward()
            optimizer.step()

    assert usage(codebook, held_out) > 0.95


def test_without_revival_dead_codes_stay_dead():
    codebook = collapsed()
    codebook.revive_below = 0.0

    for seed in range(50):
        step(codebook, clustered(2000, seed))

    assert usage(codebook, clustered(10000, seed=1000)) < 0.05


@pytest.mark.parametrize("revive_by", ["random", "split"])
def test_a_revived_code_is_not_overwritten_by_its_old_statistics(revive_by):
    codebook = Codebook(8, WIDTH, decay=0.5, revive_by=revive_by).train()
    codebook.initialize(torch.randn(400, WIDTH))
    codebook.codes[0] = codebook.code_sums[0] = 1e4
    for _ in range(6):
        step(codebook, torch.randn(400, WIDTH))
    revived = codebook.codes[0].clone()
    assert revived.norm() < 100

    step(codebook, torch.randn(400, WIDTH))

    assert codebook.codes[0].norm() < 100
    torch.testing.assert_close(
        codebook.codes, codebook.code_sums / codebook.code_counts[:, None], rtol=1e-4, atol=1e-5
    )


def test_a_revived_code_is_not_revived_again_at_once():
    codebook = collapsed()
    for seed in range(40):
        step(codebook, clustered(2000, seed))
    threshold = codebook.revive_below * codebook.code_counts.mean()

    assert (codebook.code_counts >= threshold).all()


@pytest.mark.parametrize("factor", [1, 10])
def test_the_verdict_does_not_depend_on_the_batch_size(factor):
    codebook = Codebook(8, WIDTH, decay=0.9).train()
    codebook.initialize(torch.randn(400, WIDTH))
    codes = torch.arange(8).repeat_interleave(torch.tensor([8, 8, 8, 8, 8, 8, 8, 4]))
    vectors = codebook.codes[codes]

    for _ in range(100):
        codebook.gather(vectors.repeat(factor, 1), codes.repeat(factor))
        codebook.upkeep()

    # half of an even share is alive, however many vectors that is
    assert codebook.code_counts[7] == pytest.approx(4 * factor, rel=1e-3)


def test_revival_takes_vectors_of_this_step_only_once_each():
    codebook = Codebook(16, WIDTH, decay=0.0).train()
    vectors = codebook.codes[:1] + torch.arange(5)[:, None] * 1e-3

    codebook.gather(vectors, torch.zeros(5, dtype=torch.int64))
    codebook.upkeep()

    revived = codebook.codes[1:6]
    torch.testing.assert_close(revived.sort(0).values, vectors.sort(0).values)


def test_revival_repeats_from_a_seed():
    results = []
    for _ in range(2):
        codebook = collapsed()
        torch.manual_seed(11)
        for seed in range(10):
            step(codebook, clustered(300, seed))
        results.append(codebook.codes)

    assert torch.equal(*results)


@pytest.mark.parametrize(("total", "limit"), [(4096, 100), (64 * 64, 1000), (7, 3), (2, 1)])
def test_thinned_rows_are_different_and_spread_over_columns(total, limit):
    rows = torch.arange(total)[:, None]

    kept = thinned(rows, limit).squeeze(1)

    assert kept.unique().shape[0] == limit
    if limit >= 100:
        assert (kept % 64).unique().shape[0] > 40


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"codebook_size": 1},
        {"dim": 0},
        {"learning": "magic"},
        {"decay": 1.0},
        {"revive_below": -0.1},
        {"revive_below": 1.0},
        {"revive_by": "prayer"},
    ],
)
def test_an_option_that_cannot_work_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Codebook(**{"codebook_size": 8, "dim": WIDTH, **options})
