"""Straight-through and rotation trick: exact values, and the gradients that the papers give."""

import pytest
import torch
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from vqtok.errors import ShapeError
from vqtok.ops import rotation_trick, straight_through

TRICKS = [straight_through, rotation_trick]


def jacobian(trick, latent, code):
    return torch.autograd.functional.jacobian(lambda e: trick(e, code), latent)


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_value_is_the_code_exactly_and_the_dtype_that_of_the_latents(trick, dtype):
    latents = (torch.randn(5, 7, 3) * 100).to(dtype).requires_grad_()
    quantized = torch.randn(5, 7, 3, requires_grad=True)

    out = trick(latents, quantized)

    assert out.dtype == dtype
    assert torch.equal(out, quantized.to(dtype))
    out.float().sum().backward()
    assert quantized.grad is None
    assert latents.grad.dtype == dtype


def test_straight_through_hands_the_gradient_on_unchanged():
    latents, upstream = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)

    straight_through(latents, torch.randn(6, 4)).backward(upstream)

    assert torch.equal(latents.grad, upstream)


@pytest.mark.parametrize("width", [2, 3, 16])
def test_the_jacobian_is_the_rotation_onto_the_code_times_the_ratio_of_lengths(width):
    latent, code = torch.randn(2, width, dtype=torch.float64)
    matrix = jacobian(rotation_trick, latent, code)

    scale = code.norm() / latent.norm()
    eye = torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(matrix @ latent, code)
    torch.testing.assert_close(matrix.T @ matrix, scale**2 * eye)
    assert torch.linalg.det(matrix / scale) == pytest.approx(1.0)  # a rotation, no mirror
    # nothing outside the plane of latent and code turns
    outside = torch.linalg.qr(torch.stack([latent, code], 1), mode="complete").Q[:, 2:]
    torch.testing.assert_close(matrix @ outside, scale * outside)


def test_gradients_agree_with_vector_quantize_pytorch():
    latents = torch.randn(50, 9, requires_grad=True)
    theirs = latents.detach().clone().requires_grad_()
    quantized, upstream = torch.randn(50, 9), torch.randn(50, 9)

    rotation_trick(latents, quantized).backward(upstream)
    rotate_to(theirs, quantized).backward(upstream)

    torch.testing.assert_close(latents.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("latent", "code"),
    [
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([1e-30, 0.0, 0.0], [1.0, 2.0, 3.0]),  # the norm underflows
    ],
)
def test_a_zero_vector_lets_the_gradient_straight_through(latent, code):
    matrix = jacobian(rotation_trick, torch.tensor(latent), torch.tensor(code))

    assert torch.equal(matrix, torch.eye(3))


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e18])
def test_opposite_and_extreme_vectors_have_finite_gradients(scale):
    latent = torch.randn(8) * scale
    for code in (-latent, latent, torch.randn(8) * scale):
        matrix = jacobian(rotation_trick, latent, code)

        assert matrix.isfinite().all()
        assert torch.linalg.matrix_norm(matrix, 2) <= 3.1 * code.norm() / latent.norm()


@pytest.mark.parametrize("trick", TRICKS)
def test_it_compiles_as_one_graph_with_the_same_gradients(trick):
    quantized, upstream = torch.randn(20, 6), torch.randn(20, 6)
    plain = torch.randn(20, 6, requires_grad=True)
    traced = plain.detach().clone().requires_grad_()

    trick(plain, quantized).backward(upstream)
    torch.compile(trick, fullgraph=True, backend="aot_eager")(traced, quantized).backward(upstream)

    torch.testing.assert_close(traced.grad, plain.grad)


@pytest.mark.parametrize("trick", TRICKS)
def test_shapes_that_differ_are_refused_instead_of_broadcast(trick):
    with pytest.raises(ShapeError, match=r"\[4, 3\] and \[3\]"):
        trick(torch.randn(4, 3), torch.randn(3))
