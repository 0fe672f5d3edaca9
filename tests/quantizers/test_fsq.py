"""FiniteScalarQuantizer against vector-quantize-pytorch, and its grid."""

import pytest
import torch
from vector_quantize_pytorch import FSQ

from vqtok.errors import ConfigError
from vqtok.quantizers import FiniteScalarQuantizer

LEVELS = [(8, 5, 5, 5), (8, 6, 5), (7, 7), (3, 4, 5, 6, 7), (4,), (16, 16)]
every_grid = pytest.mark.parametrize("levels", LEVELS)


@every_grid
def test_codes_and_values_are_those_of_vector_quantize_pytorch(levels):
    theirs, ours = FSQ(list(levels)), FiniteScalarQuantizer(levels)
    latents = torch.randn(4, 500, len(levels)) * 2

    their_values, their_codes = theirs(latents)
    out = ours(latents)

    assert torch.equal(out.codes.squeeze(-1), their_codes.long())
    torch.testing.assert_close(out.quantized, their_values)
    torch.testing.assert_close(ours.decode(out.codes), theirs.indices_to_codes(their_codes))


@every_grid
def test_the_gradient_is_that_of_vector_quantize_pytorch(levels):
    latents = torch.randn(4, 50, len(levels), requires_grad=True)
    upstream = torch.randn_like(latents)
    values, _ = FSQ(list(levels))(latents)
    values.backward(upstream)
    expected, latents.grad = latents.grad, None

    FiniteScalarQuantizer(levels)(latents).quantized.backward(upstream)

    torch.testing.assert_close(latents.grad, expected)


@every_grid
def test_every_code_has_its_own_place_on_the_grid(levels):
    quantizer = FiniteScalarQuantizer(levels)
    size = quantizer.codebook_size

    values = quantizer.decode(torch.arange(size)[:, None])

    assert values.unique(dim=0).shape[0] == size
    assert values.min() == -1
    assert values.abs().max() <= 1


@every_grid
def test_every_code_is_reached(levels):
    quantizer = FiniteScalarQuantizer(levels)

    codes = quantizer.encode(torch.randn(200_000, len(levels)) * 2)

    assert codes.unique().shape[0] > 0.99 * quantizer.codebook_size


def test_bfloat16_latents_use_as_many_codes_as_float32_ones():
    # vector-quantize-pytorch #114: half of the codes are lost in bfloat16 arithmetic
    quantizer = FiniteScalarQuantizer([8, 8, 8, 5])
    latents = torch.randn(50_000, 4) * 2

    used = quantizer.encode(latents).unique().shape[0]

    assert quantizer.encode(latents.bfloat16()).unique().shape[0] > 0.99 * used


def test_another_width_is_mapped_in_and_out():
    quantizer = FiniteScalarQuantizer([8, 5, 5], dim=32)
    latents = torch.randn(10, 32, requires_grad=True)

    quantizer(latents).quantized.square().sum().backward()

    assert quantizer.project_in.weight.grad.abs().sum() > 0
    assert quantizer.project_out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "levels", [[], 3, None, "855", [2, 3], [5, 0], [8.5, 3], [8.0, 3], [True, 5], [2**16, 2**16]]
)
def test_levels_that_make_no_grid_are_refused(levels):
    with pytest.raises(ConfigError, match="levels"):
        FiniteScalarQuantizer(levels)


def test_a_codebook_size_must_fit_the_levels():
    assert FiniteScalarQuantizer([8, 5, 5], codebook_size=200).codebook_size == 200
    with pytest.raises(ConfigError, match="200 codes"):
        FiniteScalarQuantizer([8, 5, 5], codebook_size=256)


def test_two_levels_are_refused_as_vector_quantize_pytorch_refuses_them():
    with pytest.raises(AssertionError, match="levels == 2"):
        FSQ([2, 5])
    with pytest.raises(ConfigError, match="Use 3 or 4"):
        FiniteScalarQuantizer([2, 5])
