import copy

import pytest
import torch
from torch import nn

from vqtok.errors import ConfigError
from vqtok.training.adversarial import AdversarialLoss, PatchDiscriminator


def adversary(**options):
    return AdversarialLoss(**{"width": 8, "layers": 2} | options)


def test_the_models_part_leaves_no_gradient_in_the_discriminator():
    game, image = adversary(), torch.rand(2, 3, 32, 32, requires_grad=True)

    game.generator(image).backward()

    assert image.grad.abs().sum() > 0
    assert all(p.grad is None for p in game.discriminator.parameters())


def test_the_discriminators_part_leaves_no_gradient_in_the_model():
    game, image = adversary(), torch.rand(2, 3, 32, 32, requires_grad=True)

    game.discriminator_loss(image, torch.rand(2, 3, 32, 32))["loss"].backward()

    assert image.grad is None
    assert all(p.grad is not None for p in game.discriminator.parameters())


def test_a_trained_discriminator_tells_real_from_fake():
    game = adversary(lr=1e-3)
    real, fake = torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32) * 0.2

    for _ in range(30):
        game.discriminator_loss(fake, real)["loss"].backward()
        game.step()

    assert game.discriminator(real).mean() > 0.5
    assert game.discriminator(fake).mean() < -0.5


def test_the_adaptive_weight_makes_both_gradients_equally_long():
    game, layer = adversary(), nn.Conv2d(3, 3, 3, padding=1)
    target = torch.rand(2, 3, 32, 32)
    ours = layer(target)
    plain, part = (ours - target).abs().mean(), game.generator(ours)

    weight = game.adaptive_weight(plain, part, layer.weight)

    wanted = torch.autograd.grad(plain, layer.weight, retain_graph=True)[0].norm()
    scaled = torch.autograd.grad(weight * part, layer.weight)[0].norm()
    torch.testing.assert_close(scaled, wanted, rtol=0.02, atol=0)


def test_the_weight_is_the_recipes_alone_if_it_is_not_adaptive():
    game, layer = adversary(adaptive=False), nn.Conv2d(3, 3, 1)
    ours = layer(torch.rand(1, 3, 32, 32))

    assert game.adaptive_weight(ours.mean(), game.generator(ours), layer.weight).item() == 1.0


def test_lecam_pulls_towards_the_running_means_of_the_other_side():
    game = adversary(lecam=0.5)
    game.real_mean.fill_(0.3)
    game.fake_mean.fill_(-0.2)
    real, fake = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        on_real, on_fake = game.discriminator(real), game.discriminator(fake)

    terms = game.discriminator_loss(fake, real)

    wanted = (on_real + 0.2).clamp(min=0).square().mean()
    wanted = wanted + (0.3 - on_fake).clamp(min=0).square().mean()
    torch.testing.assert_close(terms["lecam"], wanted)
    torch.testing.assert_close(terms["loss"], terms["discriminator"] + 0.5 * wanted)
    torch.testing.assert_close(game.real_mean, 0.999 * torch.tensor(0.3) + 0.001 * on_real.mean())


def test_the_state_continues_the_same_game():
    real, fake = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    first, second = adversary(lecam=0.1), adversary(lecam=0.1)

    def play(game, rounds):
        for _ in range(rounds):
            game.discriminator_loss(fake, real)["loss"].backward()
            game.step()

    play(first, 3)
    second.load_training_state(copy.deepcopy(first.training_state()))
    play(first, 2)
    play(second, 2)

    for ours, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_image_too_small_for_the_discriminator_is_refused():
    with pytest.raises(ConfigError, match="at least"):
        PatchDiscriminator(width=8, layers=3)(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_smallest_image_that_is_allowed_works(layers):
    net = PatchDiscriminator(width=8, layers=layers)

    logits = net(torch.rand(1, 3, net.smallest_side, net.smallest_side))

    assert logits.shape[1] == 1
    assert logits.numel() >= 1
