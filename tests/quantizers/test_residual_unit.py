"""ResidualUnitQuantizer: DAC's numbers, the lengths of its codes, its gradients."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import DacConfig
from transformers.models.dac.modeling_dac import DacResidualVectorQuantizer

from vqtok.errors import ConfigError
from vqtok.quantizers import ResidualUnitQuantizer

DIM, SIZE, LEVELS, WIDTH = 24, 50, 5, 6


def dac_and_ours() -> tuple[DacResidualVectorQuantizer, ResidualUnitQuantizer]:
    """A quantizer of transformers with random weights, and ours with the same ones."""
    config = DacConfig(hidden_size=DIM, codebook_size=SIZE, n_codebooks=LEVELS, codebook_dim=WIDTH)
    theirs = DacResidualVectorQuantizer(config).eval()
    ours = ResidualUnitQuantizer(DIM, SIZE, LEVELS, WIDTH).eval()
    with torch.no_grad():
        for level, peer in enumerate(theirs.quantizers):
            ours.codebooks[level].codes.copy_(peer.codebook.weight)
            for own, other in (
                (ours.project_in[level], peer.in_proj),
                (ours.project_out[level], peer.out_proj),
            ):
                own.weight.copy_(other.weight.squeeze(-1))
                own.bias.copy_(other.bias)
    return theirs, ours


def trained(**options) -> ResidualUnitQuantizer:
    quantizer = ResidualUnitQuantizer(DIM, SIZE, LEVELS, WIDTH, **options).train()
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=1e-2)
    for _ in range(20):
        latents = torch.randn(20, 10, DIM)
        out = quantizer(latents)
        optimizer.zero_grad()
        (out.loss + F.mse_loss(out.quantized, latents)).backward()
        optimizer.step()
    return quantizer


@torch.no_grad()
def test_codes_and_vectors_are_those_of_dac_with_the_same_weights():
    theirs, ours = dac_and_ours()
    latents = torch.randn(3, 40, DIM)

    for levels in (1, 3, LEVELS):
        expected, codes, *_ = theirs(latents.mT, levels)

        assert torch.equal(ours.encode(latents, levels), codes.movedim(1, -1))
        torch.testing.assert_close(ours.decode(codes.movedim(1, -1)), expected.mT)


def test_losses_and_gradients_are_those_of_dac():
    theirs, ours = dac_and_ours()
    mine = torch.randn(3, 40, DIM, requires_grad=True)
    other = mine.detach().clone().requires_grad_()
    weights = torch.randn(3, 40, DIM)

    quantized, _, _, commitment, codebook = theirs(other.mT)
    commitment, codebook = commitment.mean(), codebook.mean()  # the same number for every sample
    (0.25 * commitment + codebook + (quantized.mT * weights).sum()).backward()
    out = ours(mine)
    (LEVELS * out.loss + (out.quantized * weights).sum()).backward()  # DAC sums the levels

    torch.testing.assert_close(LEVELS * out.losses["commitment"], commitment)
    torch.testing.assert_close(LEVELS * out.losses["codebook"], codebook)
    torch.testing.assert_close(mine.grad, other.grad)
    for level, peer in enumerate(theirs.quantizers):
        torch.testing.assert_close(ours.codebooks[level].codes.grad, peer.codebook.weight.grad)
        for own, twin in (
            (ours.project_in[level], peer.in_proj),
            (ours.project_out[level], peer.out_proj),
        ):
            torch.testing.assert_close(own.weight.grad, twin.weight.grad.squeeze(-1))
            torch.testing.assert_close(own.bias.grad, twin.bias.grad)


def test_only_the_directions_of_codes_are_compared():
    quantizer = trained().eval()
    latents = torch.randn(4, 10, DIM)
    codes = quantizer.encode(latents, num_codebooks=1)

    with torch.no_grad():
        quantizer.codebooks[0].codes.mul_(torch.rand(SIZE, 1) * 9 + 0.5)

    directions = F.normalize(quantizer.project_in[0](latents), dim=-1)
    best = (directions @ quantizer.codebooks[0].table().T).argmax(-1)
    assert torch.equal(codes[..., 0], best)
    assert torch.equal(quantizer.encode(latents, num_codebooks=1), codes)


def test_training_lowers_the_error_with_every_level():
    quantizer = trained().eval()
    latents = torch.randn(40, 10, DIM)
    codes = quantizer.encode(latents)

    errors = [
        F.mse_loss(quantizer.decode(codes[..., :q]), latents).item() for q in range(1, LEVELS + 1)
    ]

    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8


def test_codes_start_with_the_mean_length_of_what_they_are_compared_with():
    quantizer = ResidualUnitQuantizer(DIM, SIZE, LEVELS, WIDTH)
    latents = 7 * torch.randn(500, DIM)
    lengths = quantizer.project_in[0](latents).norm(dim=-1)

    quantizer.initialize(latents)

    torch.testing.assert_close(
        quantizer.codebooks[0].codes.norm(dim=-1), lengths.mean().expand(SIZE)
    )


@pytest.mark.parametrize("revive_by", ["random", "split"])
def test_a_revived_code_has_the_mean_length_and_the_others_keep_theirs(revive_by):
    quantizer = trained(revive_below=0.5, revive_by=revive_by)
    quantizer.set_deferred_upkeep(True)
    book = quantizer.codebooks[0]
    with torch.no_grad():
        book.codes.mul_(torch.rand(SIZE, 1) + 4)
        book.code_counts.fill_(1)
        book.code_counts[:5] = 0
        book.code_counts[5:10] = 1.5  # the ones to split
    before = book.codes.detach().clone()

    quantizer(torch.randn(20, 10, DIM))
    quantizer.upkeep()

    placed = (book.codes != before).any(-1)
    assert placed[:5].all()
    assert not placed[10:].any()
    expected = before.norm(dim=-1).mean().expand(int(placed.sum()))
    torch.testing.assert_close(book.codes[placed].norm(dim=-1), expected)


def test_ema_codes_stay_on_the_unit_sphere():
    quantizer = trained(learning="ema", revive_below=0.9)

    for book in quantizer.codebooks:
        torch.testing.assert_close(book.codes.norm(dim=-1), torch.ones(SIZE))


@pytest.mark.parametrize("learning", ["gradient", "ema"])
def test_fit_brings_the_codes_closer_to_the_directions_of_the_first_level(learning):
    latents = torch.randn(600, DIM)
    started = ResidualUnitQuantizer(DIM, SIZE, LEVELS, WIDTH, learning=learning)
    fitted = copy.deepcopy(started)

    torch.manual_seed(0)
    started.initialize(latents)
    torch.manual_seed(0)
    fitted.fit(latents, rounds=10)

    def cosine(quantizer):
        book = quantizer.codebooks[0]
        rows = book.prepare(quantizer.project_in[0](latents))
        return (rows @ book.table().T).amax(-1).mean()

    assert cosine(fitted) > cosine(started)


def test_dropped_levels_add_nothing_and_codes_stay_whole():
    quantizer = trained(level_dropout=1.0, revive_below=0)
    latents = torch.randn(300, 4, DIM)

    out = quantizer(latents)

    codes = quantizer.encode(latents)
    kept = torch.zeros(300, dtype=torch.int64)
    for q in range(1, LEVELS + 1):
        same = (out.quantized - quantizer.decode(codes[..., :q])).abs().amax((1, 2)) < 1e-5
        kept[same] = q
    assert torch.equal(out.codes, codes)
    assert (kept > 0).all()
    assert (kept.bincount(minlength=LEVELS + 1)[1:] > 30).all()


def test_a_dropped_level_learns_nothing():
    quantizer = trained(level_dropout=1.0, revive_below=0)
    numbers = set()

    for _ in range(60):
        quantizer.zero_grad()
        out = quantizer(torch.randn(1, 4, DIM))
        (out.loss + out.quantized.square().sum()).backward()
        learning = [bool(book.codes.grad.abs().sum() > 0) for book in quantizer.codebooks]
        numbers.add(sum(learning))
        assert learning == sorted(learning, reverse=True)  # the first ones and no other

    assert numbers == set(range(1, LEVELS + 1))


def test_the_rotation_trick_changes_gradients_and_no_code():
    plain = trained().eval()
    turned = copy.deepcopy(plain)
    turned.gradient = "rotation"
    first = torch.randn(4, 10, DIM, requires_grad=True)
    second = first.detach().clone().requires_grad_()
    weights = torch.randn(4, 10, DIM)

    outs = plain(first), turned(second)
    for out in outs:
        (out.quantized * weights).sum().backward()

    assert torch.equal(outs[0].codes, outs[1].codes)
    assert torch.equal(outs[0].quantized, outs[1].quantized)
    assert (first.grad - second.grad).abs().max() > 1e-3


def test_the_width_of_codes_is_a_whole_number():
    with pytest.raises(ConfigError, match="code_dim"):
        ResidualUnitQuantizer(DIM, SIZE, LEVELS, code_dim=0)
    with pytest.raises(ConfigError, match="level_dropout"):
        ResidualUnitQuantizer(DIM, SIZE, LEVELS, level_dropout=2)
