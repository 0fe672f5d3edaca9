"""ResidualQuantizer: levels, their gradients, level dropout."""

import copy
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from vqtok.errors import ConfigError
from vqtok.quantizers import ResidualQuantizer


def trained(levels: int = 4, **options) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(8, 32, levels, **options).train()
    for _ in range(20):
        quantizer(torch.randn(40, 10, 8))
    return quantizer


def test_every_level_lowers_the_error():
    quantizer = trained().eval()
    latents = torch.randn(40, 10, 8)
    codes = quantizer.encode(latents)

    errors = [F.mse_loss(quantizer.decode(codes[..., :q]), latents).item() for q in (1, 2, 3, 4)]

    assert all(finer < 0.8 * coarser for coarser, finer in pairwise(errors))


def test_fewer_codebooks_are_the_first_ones():
    quantizer = trained().eval()
    latents = torch.randn(4, 10, 8)
    codes = quantizer.encode(latents)

    for q in (1, 2, 3, 4):
        assert torch.equal(quantizer.encode(latents, num_codebooks=q), codes[..., :q])
    with pytest.raises(ConfigError, match="1 to 4"):
        quantizer.encode(latents, num_codebooks=0)


def test_decode_is_the_sum_of_the_levels():
    quantizer = trained().eval()
    codes = quantizer.encode(torch.randn(4, 10, 8))

    expected = sum(book.codes[codes[..., q]] for q, book in enumerate(quantizer.codebooks))

    torch.testing.assert_close(quantizer.decode(codes), expected)


@pytest.mark.parametrize("masked", [False, True])
def test_the_commitment_of_every_level_reaches_the_latents(masked):
    quantizer = trained(commitment_weight=1.0).eval()
    latents = torch.randn(4, 10, 8, requires_grad=True)
    mask = torch.rand(4, 10) > 0.4 if masked else torch.ones(4, 10, dtype=torch.bool)

    out = quantizer(latents, mask if masked else None)
    out.loss.backward()

    residual, expected, total = latents.detach().clone(), torch.zeros(4, 10, 8), 0.0
    for level, book in enumerate(quantizer.codebooks):
        residual = residual - book.codes[out.codes[..., level]]
        total += residual[mask].square().mean() / 4
        expected[mask] += 2 * residual[mask] / (residual[mask].numel() * 4)
    torch.testing.assert_close(out.loss, total)
    torch.testing.assert_close(latents.grad, expected)


def test_every_level_learns_by_gradient():
    quantizer = ResidualQuantizer(8, 32, 4, learning="gradient").train()

    quantizer(torch.randn(40, 10, 8)).loss.backward()

    for book in quantizer.codebooks:
        assert book.codes.grad.abs().sum() > 0


def test_the_levels_start_on_what_the_earlier_levels_left():
    quantizer = ResidualQuantizer(8, 32, 3)
    latents = torch.randn(400, 8)

    quantizer.initialize(latents)

    sizes = [book.codes.norm(dim=-1).mean().item() for book in quantizer.codebooks]
    assert sizes[0] > 1.3 * sizes[1] > 1.3**2 * sizes[2]


def test_dropped_levels_add_nothing_to_quantized_and_codes_stay_whole():
    quantizer = trained(level_dropout=1.0)
    quantizer.set_deferred_upkeep(True)
    latents = torch.randn(300, 10, 8)

    out = quantizer(latents)

    whole = quantizer.encode(latents)
    kept = torch.zeros(300, dtype=torch.int64)
    for q in (1, 2, 3, 4):
        same = (out.quantized - quantizer.decode(whole[..., :q])).abs().amax((1, 2)) < 1e-5
        kept[same] = q
    assert torch.equal(out.codes, whole)
    assert (kept > 0).all()
    shares = kept.bincount(minlength=5)[1:] / 300
    assert (shares - 0.25).abs().max() < 0.1


def test_dropped_levels_enter_neither_statistics_nor_loss():
    quantizer = trained(level_dropout=1.0, revive_below=0, decay=0.0)
    quantizer.set_deferred_upkeep(True)
    latents = torch.randn(60, 10, 8, requires_grad=True)
    tables = [book.codes.clone() for book in quantizer.codebooks]

    out = quantizer(latents)
    out.loss.backward()
    quantizer.upkeep()

    counts = torch.tensor([book.code_counts.sum() for book in quantizer.codebooks])
    assert counts[0] == 600
    assert (counts.diff() < 0).all()
    residual, expected = latents.detach(), 0.0
    sums = torch.stack([t[out.codes[..., q]] for q, t in enumerate(tables)]).cumsum(0)
    distances = (sums - out.quantized.detach()).abs().amax((2, 3))  # [Q, samples]
    kept = distances.argmin(0) + 1
    for q in range(4):
        rows = (residual - sums[q])[kept > q]
        expected += rows.square().sum() / (4 * residual.numel())
    torch.testing.assert_close(out.losses["commitment"], expected)


def test_level_dropout_is_for_training_only():
    quantizer = trained(level_dropout=1.0).eval()
    latents = torch.randn(30, 10, 8)

    out = quantizer(latents)

    torch.testing.assert_close(out.quantized, quantizer.decode(out.codes))


def test_some_samples_keep_all_levels_under_partial_dropout():
    quantizer = trained(level_dropout=0.5)
    quantizer.set_deferred_upkeep(True)
    latents = torch.randn(300, 10, 8)

    out = quantizer(latents)

    whole = (out.quantized - quantizer.decode(out.codes)).abs().amax((1, 2)) < 1e-5
    assert 0.5 < whole.float().mean() < 0.75  # 1 - 0.5 * 3 / 4


@pytest.mark.parametrize("shape", [(8,), (5, 8), (5, 4, 8), (5, 4, 3, 8)])
def test_level_dropout_takes_any_leading_axes(shape):
    quantizer = trained(level_dropout=0.5)

    out = quantizer(torch.randn(shape))

    assert out.codes.shape == (*shape[:-1], 4)
    assert out.quantized.shape == shape


def test_upkeep_after_a_copy_is_that_of_the_original():
    quantizer = trained()
    twin = copy.deepcopy(quantizer)
    latents = torch.randn(40, 10, 8)

    for each in (quantizer, twin):
        torch.manual_seed(1)
        each(latents)

    for key, value in quantizer.state_dict().items():
        assert torch.equal(twin.state_dict()[key], value)


def test_level_dropout_is_a_share():
    with pytest.raises(ConfigError, match="level_dropout"):
        ResidualQuantizer(8, 32, 4, level_dropout=1.5)
