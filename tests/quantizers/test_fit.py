"""`fit` learns codebooks without a gradient: better than a k-means start, as good as faiss."""

import faiss
import pytest
import torch

from tests.quantizers.cases import CASES, build, draw
from vqtok.errors import ConfigError
from vqtok.quantizers import Codebook, ResidualQuantizer
from vqtok.quantizers.kmeans import kmeans, progressive_kmeans

LEARNED = [name for name in CASES if not name.startswith("fsq")]
# the others minimize another error than that of the vectors as they are
PLAIN = [name for name in LEARNED if "unit" not in name and name != "vq-factorized"]


def error(quantizer, latents):
    return (quantizer.decode(quantizer.encode(latents)) - latents).square().sum(-1).mean().item()


@pytest.mark.parametrize("name", PLAIN)
def test_fit_lowers_the_error_of_the_start(name):
    latents = draw(batch=20)
    started, fitted = build(name), build(name)

    torch.manual_seed(0)
    started.initialize(latents)
    torch.manual_seed(0)
    fitted.fit(latents)

    assert error(fitted, latents) < error(started, latents)
    assert all(book.is_initialized for book in fitted.learned_codebooks())


@pytest.mark.parametrize("name", LEARNED)
def test_training_goes_on_where_fit_has_ended(name):
    quantizer = build(name).train()
    quantizer.fit(draw(batch=20))
    before = [book.table() for book in quantizer.learned_codebooks()]

    quantizer(draw(batch=20))

    for book, table in zip(quantizer.learned_codebooks(), before, strict=True):
        assert (book.table() - table).norm() < 0.1 * table.norm()


@pytest.mark.parametrize("name", LEARNED)
def test_a_frozen_quantizer_is_not_fitted(name):
    quantizer = build(name)
    quantizer.freeze()

    with pytest.raises(ConfigError, match="frozen"):
        quantizer.fit(draw())


def test_rounds_are_counted_from_zero():
    with pytest.raises(ConfigError, match="rounds"):
        build("vq").fit(draw(), rounds=-1)


@pytest.mark.parametrize("kind", ["noise", "clusters"])
def test_residual_codes_are_as_good_as_those_of_faiss(kind):
    latents = torch.randn(1500, 16)
    if kind == "clusters":
        latents = latents * 0.3 + torch.randn(30, 16)[torch.randint(30, (1500,))]
    peer = faiss.ResidualQuantizer(16, 4, 4)
    peer.train(latents.numpy())
    theirs = torch.from_numpy(peer.decode(peer.compute_codes(latents.numpy())))
    quantizer = ResidualQuantizer(16, 16, 4)
    quantizer.beam_size = peer.max_beam_size

    quantizer.fit(latents)

    assert error(quantizer, latents) < 1.02 * (theirs - latents).square().sum(-1).mean()


def test_a_beam_gives_the_first_codes_of_the_whole_search():
    quantizer = ResidualQuantizer(8, 16, 4)
    quantizer.fit(draw(batch=20))
    quantizer.beam_size = 4
    latents = draw()

    codes = quantizer.encode(latents)

    assert torch.equal(quantizer.encode(latents, num_codebooks=2), codes[..., :2])


def test_moved_codes_are_the_means_of_their_vectors_and_unused_ones_go_where_they_help():
    book = Codebook(4, 2)
    book.codes.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 50.0], [0.0, -50.0]]))
    vectors = torch.tensor([[1.0, 1.0], [2.0, 0.0], [9.0, 3.0], [9.0, 5.0]])
    codes = book.nearest(vectors)

    moves = book.move(vectors - book.codes[codes], codes)

    assert codes.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(moves, torch.tensor([[1.5, 0.5], [-1.0, 4.0], [0.0, 0], [0, 0]]))
    expected = torch.tensor([[1.5, 0.5], [9.0, 4.0], [9.0, 5.0], [9.0, 3.0]])
    torch.testing.assert_close(book.codes, expected)


def test_kmeans_leaves_no_center_alone_in_noise_of_many_dimensions():
    noise = torch.randn(4000, 64)
    first = kmeans(noise, 64)
    rest = noise - first[torch.cdist(noise, first).argmin(1)]

    counts = torch.bincount(torch.cdist(rest, kmeans(rest, 64)).argmin(1), minlength=64)

    # without swaps the smallest clusters hold one vector and the largest hundreds
    assert (counts > 4).float().mean() > 0.9
    assert counts.max() < 250


def test_kmeans_keeps_a_center_for_a_few_far_vectors():
    vectors = torch.cat([torch.randn(1000, 8), torch.randn(3, 8) + 1000])

    centers = kmeans(vectors, 8)

    assert torch.cdist(vectors, centers).amin(1).max() < 10


def test_progressive_kmeans_finds_directions_that_a_plain_start_does_not():
    scales = torch.cat([torch.full((2,), 3.0), torch.ones(62)])
    vectors = (torch.randn(1500, 64) * scales) @ torch.linalg.qr(torch.randn(64, 64))[0] + 5

    errors = [
        torch.cdist(vectors, centers(vectors, 64)).amin(1).square().mean()
        for centers in (kmeans, progressive_kmeans)
    ]

    assert errors[1] < 0.995 * errors[0]


@pytest.mark.parametrize(("rows", "width"), [(3, 5), (40, 1), (40, 2), (40, 700)])
def test_progressive_kmeans_takes_any_shape(rows, width):
    centers = progressive_kmeans(torch.randn(rows, width), 8)

    assert centers.shape == (8, width)
    assert centers.isfinite().all()


def test_progressive_kmeans_of_one_repeated_vector_is_that_vector():
    vectors = torch.arange(12.0).expand(50, -1).contiguous()

    centers = progressive_kmeans(vectors, 8)

    assert torch.cdist(vectors[:1], centers).amin() < 1e-3
