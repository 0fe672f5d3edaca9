"""SpatialQuantizer: every code is of its region, at any size of the grid."""

import pytest
import torch

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics import code_counts, region_stats
from vqtok.quantizers import SpatialQuantizer

SIZES = [(1, 1), (2, 3), (3, 9), (4, 4), (5, 7), (16, 16), (13, 31)]
every_size = pytest.mark.parametrize(("height", "width"), SIZES)


@every_size
@pytest.mark.parametrize("num_regions", [1, 3, 4])
def test_every_code_lies_in_the_slice_of_its_region(height, width, num_regions):
    quantizer = SpatialQuantizer(8, 8 * num_regions**2, num_regions).train()
    latents = torch.randn(3, height, width, 8)

    codes = quantizer(latents).codes.squeeze(-1)

    for i in range(height):
        for j in range(width):
            region = (i * num_regions // height) * num_regions + j * num_regions // width
            assert (codes[:, i, j] // 8 == region).all()
            assert quantizer.region_of(height, width)[i, j] == region


def test_the_code_is_the_best_of_its_slice():
    quantizer = SpatialQuantizer(8, 64, 2).train()
    for _ in range(3):
        quantizer(torch.randn(8, 6, 6, 8))
    latents = torch.randn(2, 6, 6, 8)

    codes = quantizer.eval().encode(latents).squeeze(-1)

    corner = latents[:, 3:, :3].reshape(-1, 8)
    best = torch.cdist(corner, quantizer.codebooks[2].codes).argmin(1)
    assert torch.equal(codes[:, 3:, :3].flatten(), 2 * 16 + best)


@every_size
def test_training_and_evaluation_work_at_every_size(height, width):
    quantizer = SpatialQuantizer(8, 64, 4).train()

    out = quantizer(torch.randn(2, height, width, 8))

    assert out.loss.isfinite()
    assert all(book.is_initialized for book in quantizer.codebooks)
    assert out.quantized.shape == (2, height, width, 8)


def test_each_slice_starts_on_the_latents_of_its_region():
    latents = torch.randn(16, 8, 8, 8)
    centers = torch.arange(16.0).view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1) * 100
    quantizer = SpatialQuantizer(8, 16 * 8, 4)

    quantizer.initialize(latents + centers[..., None])

    for region, codebook in enumerate(quantizer.codebooks):
        assert (codebook.codes - region * 100).abs().max() < 10


def test_a_region_without_latents_starts_like_the_whole_picture():
    quantizer = SpatialQuantizer(8, 16 * 8, 4)

    quantizer.initialize(torch.randn(50, 1, 1, 8) + 100)

    for codebook in quantizer.codebooks:
        assert (codebook.codes - 100).abs().max() < 10


def test_only_slices_in_use_change():
    quantizer = SpatialQuantizer(8, 64, 4).train()
    quantizer.initialize(torch.randn(4, 8, 8, 8))
    before = [book.codes.clone() for book in quantizer.codebooks]

    quantizer(torch.randn(4, 1, 1, 8))

    changed = [
        not torch.equal(book.codes, old)
        for book, old in zip(quantizer.codebooks, before, strict=True)
    ]
    assert changed == [True] + [False] * 15


def test_dead_codes_are_judged_within_their_slice():
    quantizer = SpatialQuantizer(8, 4 * 32, 2, decay=0.9).train()
    quantizer.initialize(torch.randn(4, 16, 16, 8))
    with torch.no_grad():
        for codebook in quantizer.codebooks:
            codebook.codes[4:] = codebook.code_sums[4:] = 1e4

    for _ in range(60):
        quantizer(torch.randn(4, 16, 16, 8))

    codes = quantizer.eval().encode(torch.randn(50, 16, 16, 8))
    usages = [stats.usage for stats in region_stats(code_counts(codes, 128), 4)]
    assert min(usages) > 0.95


def test_decode_is_a_lookup_at_any_place():
    quantizer = SpatialQuantizer(8, 64, 2).eval()
    codes = torch.randint(64, (5, 1))

    table = torch.cat([book.codes for book in quantizer.codebooks])

    assert torch.equal(quantizer.decode(codes), table[codes.squeeze(-1)])


@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 5, 8), (2, 3, 4, 5, 8)])
def test_latents_must_be_images(shape):
    with pytest.raises(ShapeError, match="place"):
        SpatialQuantizer(8, 64, 2).encode(torch.randn(shape))


@pytest.mark.parametrize(("codebook_size", "num_regions"), [(100, 3), (16, 4), (8, 4)])
def test_a_codebook_that_does_not_divide_is_refused(codebook_size, num_regions):
    with pytest.raises(ConfigError, match="spatial"):
        SpatialQuantizer(8, codebook_size, num_regions)
