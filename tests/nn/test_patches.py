"""Patches, stem, refiner and positions: what a fresh VIM-VQ is made of."""

import pytest
import torch
from torch.nn import functional as F

from vqtok.nn.conv import ConvStem, PixelRefiner
from vqtok.nn.patches import PatchEmbedding, PatchToPixels, cosine_basis
from vqtok.nn.positions import RelativePositions


@pytest.mark.parametrize("patch_pixels", [8, 16])
def test_the_cosine_basis_is_orthonormal_and_starts_with_brightness(patch_pixels):
    basis = cosine_basis(patch_pixels).flatten(1)

    assert torch.allclose(basis @ basis.T, torch.eye(len(basis)), atol=1e-5)
    assert torch.allclose(basis[0], basis[0, 0].expand(len(basis)))


def test_a_fresh_embedding_of_full_width_loses_nothing():
    embed, back = PatchEmbedding(8, 192), PatchToPixels(8, 192)
    embed.reset_parameters()
    back.reset_parameters()
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1

    assert torch.allclose(back(embed(pixels)), pixels, atol=1e-5)


def test_a_narrow_embedding_keeps_the_smooth_part():
    embed, back = PatchEmbedding(8, 16), PatchToPixels(8, 16)
    embed.reset_parameters()
    back.reset_parameters()
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)

    assert (back(embed(ramp)) - ramp).abs().max() < 0.05


def test_stem_and_refiner_start_at_nothing_and_have_the_grid_of_the_patches():
    stem, refiner = ConvStem(8, 24), PixelRefiner(8, 24, 6)
    for module in (stem, refiner):
        module.reset_parameters()
    tokens = stem(torch.randn(2, 3, 40, 16))

    assert tokens.shape == (2, 5, 2, 24)
    assert tokens.abs().max() == 0
    assert refiner(torch.randn(2, 5, 2, 24)).shape == (2, 3, 40, 16)
    assert refiner(torch.randn(2, 5, 2, 24)).abs().max() == 0


def test_positions_are_relative_so_corners_agree_at_every_size():
    positions = RelativePositions(12)
    small = positions(torch.zeros(1, 3, 4, 12))
    large = positions(torch.zeros(1, 30, 7, 12))

    for row, column in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
        assert torch.allclose(small[0, row, column], large[0, row, column], atol=1e-4)
    assert (small[0, 0, 0] - small[0, 1, 1]).abs().max() > 1e-3
    assert positions(torch.zeros(1, 1, 1, 12)).isfinite().all()


def test_positions_on_a_grid_never_trained_on_lie_between_those_of_a_coarser_one():
    positions = RelativePositions(12)
    coarse, fine = (positions(torch.zeros(1, side, side, 12)) for side in (8, 29))

    between = F.interpolate(
        coarse.permute(0, 3, 1, 2), (29, 29), mode="bilinear", align_corners=True
    ).permute(0, 2, 3, 1)

    assert (fine - between).abs().max() < 0.1 * fine.abs().max()
