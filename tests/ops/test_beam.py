"""Beam search finds sums of codes at least as near as greedy search does, as near as there are."""

import itertools

import faiss
import pytest
import torch

from vqtok.errors import ConfigError, ShapeError
from vqtok.ops import beam, beam_codes, residual_codes


def vector_sum(codes, codebooks):
    return sum(book[level] for book, level in zip(codebooks, codes.unbind(-1), strict=True))


def errors(codes, latents, codebooks):
    return (latents - vector_sum(codes, codebooks)).square().sum(-1)


def stack(levels, size, width):
    """Codebooks [Q, K, D] that get finer, as residual codebooks do."""
    return torch.randn(levels, size, width) * 0.7 ** torch.arange(levels).view(-1, 1, 1)


def test_a_beam_of_one_is_the_greedy_search():
    latents, codebooks = torch.randn(100, 6), stack(4, 9, 6)

    assert torch.equal(beam_codes(latents, codebooks, 1), residual_codes(latents, codebooks))


@pytest.mark.parametrize("with_tables", [True, False])
def test_a_beam_of_everything_finds_the_nearest_sum_of_all(with_tables, monkeypatch):
    monkeypatch.setattr(beam, "_tables_pay", lambda *arguments: with_tables)
    latents, codebooks = torch.randn(40, 5), stack(3, 4, 5)

    codes = beam_codes(latents, codebooks, 64)

    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    best = torch.stack([errors(code, latents, codebooks) for code in every]).amin(0)
    torch.testing.assert_close(errors(codes, latents, codebooks), best)


def test_a_beam_is_better_than_greedy_and_both_ways_agree(monkeypatch):
    latents, codebooks = torch.randn(700, 16), stack(6, 37, 16)
    greedy = errors(residual_codes(latents, codebooks), latents, codebooks).mean()
    found = []

    for with_tables in (True, False):
        monkeypatch.setattr(beam, "_tables_pay", lambda *arguments, it=with_tables: it)
        found.append(beam_codes(latents, codebooks, 5))

    assert (found[0] == found[1]).all(1).float().mean() > 0.99  # near ties
    assert errors(found[0], latents, codebooks).mean() < 0.95 * greedy


def test_the_error_is_that_of_faiss_with_the_same_codebooks():
    latents = torch.randn(400, 12)
    peer = faiss.ResidualQuantizer(12, 4, 4)
    peer.train(latents.numpy())
    codebooks = torch.from_numpy(faiss.vector_to_array(peer.codebooks).reshape(4, 16, 12))

    codes = beam_codes(latents, codebooks, peer.max_beam_size)

    theirs = torch.from_numpy(peer.decode(peer.compute_codes(latents.numpy())))
    ours = errors(codes, latents, codebooks)
    torch.testing.assert_close(ours, (latents - theirs).square().sum(-1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_rows_and_fewer_codes_than_the_beam(rows, size):
    codes = beam_codes(torch.randn(rows, 4), stack(3, size, 4), 8)

    assert codes.shape == (rows, 3)
    assert codes.dtype == torch.int64
    assert ((codes >= 0) & (codes < size)).all()


def test_vectors_far_from_the_origin_keep_their_digits():
    latents, codebooks = torch.randn(300, 8), stack(4, 11, 8)
    expected = beam_codes(latents, codebooks, 4)
    shift = torch.zeros_like(codebooks)
    shift[0] = 1000

    codes = beam_codes(latents + 1000, codebooks + shift, 4)

    assert (codes == expected).all(1).float().mean() > 0.95
    assert (
        errors(codes, latents, codebooks).mean()
        < 1.001 * errors(expected, latents, codebooks).mean()
    )


def test_blocks_do_not_change_the_codes(monkeypatch):
    latents, codebooks = torch.randn(300, 8), stack(4, 11, 8)
    expected = beam_codes(latents, codebooks, 4)

    monkeypatch.setattr(beam, "BLOCK_BYTES", 5000)

    assert (beam_codes(latents, codebooks, 4) == expected).all(1).float().mean() > 0.99


def test_what_does_not_fit_is_refused():
    latents, codebooks = torch.randn(3, 4), stack(2, 5, 4)

    with pytest.raises(ConfigError, match="beam_size"):
        beam_codes(latents, codebooks, 0)
    with pytest.raises(ShapeError, match="same D"):
        beam_codes(latents[:, :3], codebooks, 2)
