"""Codebook statistics: numbers with a known answer, and independence of the batches."""

import math

import pytest
import torch

from vqtok.errors import CodeRangeError, ConfigError, ShapeError
from vqtok.metrics import code_counts, codebook_stats, level_stats, region_stats


def test_even_use_is_the_maximum():
    stats = codebook_stats(torch.full((256,), 7))

    assert stats.total == 7 * 256
    assert stats.usage == 1
    assert stats.perplexity == pytest.approx(256)
    assert stats.entropy_bits == pytest.approx(8)
    assert stats.normalized_entropy == pytest.approx(1)


def test_a_single_code_in_use_is_the_minimum():
    stats = codebook_stats(torch.tensor([0, 0, 9, 0]))

    assert stats.usage == 0.25
    assert stats.perplexity == 1
    assert stats.entropy_bits == 0
    assert stats.normalized_entropy == 0


def test_the_entropy_is_that_of_the_definition():
    shares = [0.5, 0.25, 0.125, 0.125, 0.0]

    stats = codebook_stats(torch.tensor(shares) * 800)

    assert stats.entropy_bits == pytest.approx(1.75)
    assert stats.perplexity == pytest.approx(2**1.75)
    assert stats.normalized_entropy == pytest.approx(1.75 / math.log2(5))
    assert stats.usage == 0.8


def test_nothing_counted_is_nothing_used():
    stats = codebook_stats(torch.zeros(8))

    assert (stats.total, stats.usage, stats.perplexity, stats.entropy_bits) == (0, 0, 0, 0)


def test_statistics_do_not_depend_on_the_batches():
    codes = torch.randint(100, (64, 16, 16)) ** 2 % 100

    whole = code_counts(codes, 100)
    parts = sum(code_counts(part, 100) for part in codes.split([1, 13, 50]))

    assert torch.equal(parts, whole)
    assert whole.dtype == torch.int64
    assert whole.sum() == codes.numel()


def test_huge_counts_keep_their_digits():
    # float32 loses ones beside 2**24
    stats = codebook_stats(torch.tensor([2**40, 2**40, 1]))

    assert stats.total == 2**41 + 1
    assert stats.usage == 1
    assert stats.entropy_bits == pytest.approx(1, abs=1e-9)


def test_masked_codes_do_not_count():
    codes = torch.tensor([[0, 1], [2, 999]])

    counts = code_counts(codes, 4, torch.tensor([[True, True], [True, False]]))

    assert counts.tolist() == [1, 1, 1, 0]


def test_levels_are_counted_apart():
    codes = torch.stack([torch.arange(16), torch.zeros(16).long()], -1).view(4, 4, 2)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2:] = False

    first, second = level_stats(codes, (16, 4))
    masked, _ = level_stats(codes, (16, 4), mask)

    assert (first.usage, first.codebook_size) == (1, 16)
    assert (second.usage, second.codebook_size) == (0.25, 4)
    assert masked.usage == 0.5


def test_regions_are_the_slices_of_the_codebook():
    counts = torch.tensor([5, 5, 5, 5, 9, 0, 0, 0])

    first, second = region_stats(counts, 2)

    assert (first.perplexity, second.perplexity) == (pytest.approx(4), 1)
    assert first.codebook_size == 4


@pytest.mark.parametrize("codes", [[-1, 0], [0, 4]])
def test_codes_out_of_range_are_refused(codes):
    with pytest.raises(CodeRangeError, match="0 to 3"):
        code_counts(torch.tensor(codes), 4)


def test_wrong_shapes_and_dtypes_are_refused():
    codes = torch.zeros(4, 2, dtype=torch.int64)

    with pytest.raises(ShapeError, match="int64"):
        code_counts(codes.int(), 4)
    with pytest.raises(ShapeError, match="mask"):
        code_counts(codes, 4, torch.ones(4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="mask"):
        code_counts(codes, 4, torch.ones(4, 2))
    with pytest.raises(ShapeError, match="counts"):
        codebook_stats(codes)
    with pytest.raises(ConfigError, match="negative"):
        codebook_stats(torch.tensor([1, -1]))
    with pytest.raises(ShapeError, match="fit"):
        level_stats(codes, (4, 4, 4))
    with pytest.raises(ShapeError, match="slices"):
        region_stats(torch.ones(10), 4)
