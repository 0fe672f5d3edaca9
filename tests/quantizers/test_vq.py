"""VectorQuantizer: losses, gradients, widths."""

import pytest
import torch
from torch.nn import functional as F

from vqtok.errors import ConfigError
from vqtok.quantizers import VectorQuantizer


@pytest.mark.parametrize("learning", ["ema", "gradient"])
def test_the_loss_is_equation_3(learning):
    quantizer = VectorQuantizer(8, 16, learning=learning, commitment_weight=0.5).eval()
    latents = torch.randn(4, 10, 8, requires_grad=True)

    out = quantizer(latents)
    out.loss.backward()

    vectors = quantizer.decode(out.codes)
    distance = F.mse_loss(latents, vectors)
    weight = 0.5 + (learning == "gradient")
    torch.testing.assert_close(out.loss, weight * distance)
    torch.testing.assert_close(out.losses["commitment"], distance)
    # the codebook term pulls the codes, the commitment term the latents
    torch.testing.assert_close(latents.grad, 0.5 * 2 * (latents - vectors) / latents.numel())
    if learning == "gradient":
        grad = torch.zeros(16, 8).index_add(
            0, out.codes.flatten(), (2 * (vectors - latents) / latents.numel()).flatten(0, 1)
        )
        torch.testing.assert_close(quantizer.codebook.codes.grad, grad)


def test_the_loss_is_a_mean_over_valid_positions():
    quantizer = VectorQuantizer(8, 16).eval()
    latents = torch.randn(4, 10, 8)
    mask = torch.rand(4, 10) > 0.5

    assert quantizer(latents, mask).loss == pytest.approx(quantizer(latents[mask]).loss.item())


def test_the_straight_gradient_is_the_identity():
    quantizer = VectorQuantizer(8, 16).eval()
    latents, upstream = torch.randn(50, 8, requires_grad=True), torch.randn(50, 8)

    quantizer(latents).quantized.backward(upstream)

    assert torch.equal(latents.grad, upstream)


def test_the_rotation_gradient_keeps_the_angle_to_the_code():
    quantizer = VectorQuantizer(8, 16, gradient="rotation").eval()
    latents, upstream = torch.randn(50, 8, requires_grad=True), torch.randn(50, 8)

    out = quantizer(latents)
    out.quantized.backward(upstream)

    with_code = F.cosine_similarity(upstream, quantizer.decode(out.codes))
    torch.testing.assert_close(F.cosine_similarity(latents.grad, latents), with_code)


def test_unit_norm_chooses_by_angle():
    quantizer = VectorQuantizer(8, 16, unit_norm=True).eval()
    latents = torch.randn(50, 8)

    codes = quantizer.encode(latents)

    angles = F.normalize(latents, dim=-1) @ F.normalize(quantizer.codebook.codes, dim=-1).T
    assert torch.equal(codes.squeeze(-1), angles.argmax(1))
    assert torch.equal(quantizer.encode(latents * 100), codes)
    torch.testing.assert_close(quantizer.decode(codes).norm(dim=-1), torch.ones(50))


def test_a_factorized_codebook_trains_its_maps():
    quantizer = VectorQuantizer(32, 16, codebook_dim=4).train()
    latents = torch.randn(50, 32, requires_grad=True)

    out = quantizer(latents)
    (out.quantized.square().mean() + out.loss).backward()

    assert quantizer.codebook.codes.shape == (16, 4)
    for projection in (quantizer.project_in, quantizer.project_out):
        assert projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("learning", ["ema", "gradient"])
@pytest.mark.parametrize("unit_norm", [False, True])
def test_training_lowers_the_error_and_uses_the_codes(learning, unit_norm):
    quantizer = VectorQuantizer(8, 64, learning=learning, unit_norm=unit_norm).train()
    # mixing makes the start, made on other data, a poor one
    mixing = torch.randn(8, 8)
    quantizer.initialize(torch.randn(500, 8))
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02) if learning != "ema" else None
    losses = []

    for _ in range(100):
        out = quantizer(torch.randn(500, 8) @ mixing)
        losses.append(out.losses["commitment"].item())
        if optimizer:
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()

    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert out.codes.unique().shape[0] > 56


def test_revival_between_forward_and_backward_does_not_break_backward():
    quantizer = VectorQuantizer(
        8, 64, learning="gradient", unit_norm=True, decay=0.0, revive_below=0.9
    ).train()
    quantizer(torch.randn(100, 8))
    codes = quantizer.codebook.codes.detach().clone()

    out = quantizer(torch.randn(100, 8))
    out.loss.backward()

    assert not torch.equal(quantizer.codebook.codes, codes)
    assert quantizer.codebook.codes.grad.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [{"gradient": "none"}, {"commitment_weight": -1.0}, {"commitment_weight": float("nan")}],
)
def test_an_option_that_cannot_work_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        VectorQuantizer(8, 16, **options)
