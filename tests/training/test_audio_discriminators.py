import copy
import itertools

import pytest
import torch

from vqtok.errors import ConfigError, ShapeError
from vqtok.training.adversarial import feature_distance
from vqtok.training.audio_discriminators import AudioAdversarialLoss, PeriodDiscriminator
from vqtok.training.losses import build_losses


def adversary(**options):
    small = {"width": 2, "periods": (2, 3), "windows": (128, 64)}
    return AudioAdversarialLoss(**small | options)


def sound(batch=2, samples=1200, channels=1):
    return 0.1 * torch.randn(batch, channels, samples)


def test_every_period_and_window_has_its_own_map_of_logits():
    game = adversary()

    logits, features = game.judge(sound())

    assert [tuple(x.shape) for x in logits] == [
        (2, 1, 8, 2),  # 1200 / 2 / 3^4, rounded up each time
        (2, 1, 5, 3),
        (2, 1, 1200 // 32 + 1, 9),  # 65 frequencies halved three times, rounded up
        (2, 1, 1200 // 16 + 1, 5),
    ]
    assert len(features) == 2 * 5 + 2 * 5


def test_the_published_sizes_are_the_default():
    mpd = AudioAdversarialLoss(discriminators=["mpd"]).discriminator

    widths = [1, 32, 128, 512, 1024, 1024]
    kernels = [5 * a * b for a, b in itertools.pairwise(widths)] + [3 * 1024]
    # weight norm adds a length to each of the filters, which have a bias too
    wanted = 5 * (sum(kernels) + 2 * (sum(widths[1:]) + 1))
    assert sum(p.numel() for p in mpd.parameters()) == wanted
    assert [m.period for m in mpd.members] == [2, 3, 5, 7, 11]


def test_a_period_sees_only_samples_that_are_a_period_apart():
    net, quiet = PeriodDiscriminator(3, width=2), torch.zeros(1, 1, 300)
    pulse = quiet.clone()
    pulse[..., 151] = 1.0  # 151 % 3 == 1

    changed = net(pulse)[0] != net(quiet)[0]

    assert changed.any(dim=2).flatten().tolist() == [False, True, False]


def test_the_models_part_leaves_no_gradient_in_the_discriminator():
    game, ours, target = adversary(), sound().requires_grad_(), sound().requires_grad_()

    game.generator(ours, target).backward()

    assert ours.grad.abs().sum() > 0
    assert target.grad is None
    assert all(p.grad is None for p in game.discriminator.parameters())


def test_the_discriminators_part_leaves_no_gradient_in_the_model():
    game, ours = adversary(), sound().requires_grad_()

    game.discriminator_loss(ours, sound())["loss"].backward()

    assert ours.grad is None
    assert all(p.grad is not None for p in game.discriminator.parameters())


def test_terms_are_means_over_the_maps():
    game, ours, target = adversary(lecam=0.1), sound(), sound()
    with torch.no_grad():
        real, fake = game.judge(target).logits, game.judge(ours).logits

    terms = game.generator_terms(ours, target) | game.discriminator_loss(ours, target)

    torch.testing.assert_close(terms["adversarial"], -sum(x.mean() for x in fake) / 4)
    hinge = sum((1 - x).relu().mean() for x in real) + sum((1 + x).relu().mean() for x in fake)
    torch.testing.assert_close(terms["discriminator"], hinge / 8)
    torch.testing.assert_close(game.real_mean, 0.001 * sum(x.mean() for x in real) / 4)


def test_feature_matching_is_zero_for_equals_and_blind_to_the_features_scale():
    game, ours, target = adversary(), sound(), sound()

    assert game.generator_terms(target, target)["feature_matching"].item() == 0
    ours, theirs = game.judge(ours).features, game.judge(target).features
    louder = [[10 * x for x in features] for features in (ours, theirs)]
    torch.testing.assert_close(feature_distance(*louder), feature_distance(ours, theirs))


def test_feature_matching_weighs_as_much_as_it_should():
    ours, target = sound(), sound()
    game = adversary(feature_matching=3.0)

    terms = game.generator_terms(ours, target)

    assert terms["feature_matching"] > 0
    wanted = terms["adversarial"] + 3 * terms["feature_matching"]
    torch.testing.assert_close(game.generator(ours, target), wanted)
    assert adversary(feature_matching=0).generator_terms(ours, target).keys() == {"adversarial"}
    with pytest.raises(ConfigError, match="target"):
        game.generator(ours)


@pytest.mark.parametrize("kind", ["mpd", "msstft"])
def test_a_trained_discriminator_tells_real_from_fake(kind):
    game = adversary(discriminators=[kind], width=4, lr=3e-3)
    t = torch.arange(600)
    real = torch.sin(0.3 * t + 6 * torch.rand(8, 1, 1))
    fake = real + 0.5 * torch.randn(8, 1, 600)

    for _ in range(40):
        game.discriminator_loss(fake, real)["loss"].backward()
        game.step()

    for ours, theirs in zip(game.judge(fake).logits, game.judge(real).logits, strict=True):
        assert theirs.mean() > ours.mean() + 0.5


def test_the_state_continues_the_same_game():
    real, fake = sound(), sound()
    first, second = adversary(lecam=0.1), adversary(lecam=0.1)

    def play(game, rounds):
        for _ in range(rounds):
            game.discriminator_loss(fake, real)["loss"].backward()
            game.step()

    play(first, 2)
    second.load_training_state(copy.deepcopy(first.training_state()))
    play(first, 2)
    play(second, 2)

    for ours, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("samples", [1, 7, 333])
def test_any_length_can_be_judged_under_autocast_too(samples):
    game = adversary()

    with torch.autocast("cpu", torch.bfloat16):
        terms = game.generator_terms(sound(samples=samples), sound(samples=samples))

    assert all(value.isfinite() and value.dtype == torch.float32 for value in terms.values())


def test_stereo_wants_to_be_said():
    logits = adversary(channels=2).judge(sound(channels=2)).logits

    assert len(logits) == 4
    with pytest.raises(ShapeError, match="channels"):
        adversary().judge(sound(channels=2))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"discriminators": []}, "mpd, msstft or both"),
        ({"discriminators": ["mrd"]}, "mpd, msstft or both"),
        ({"discriminators": ["mpd", "mpd"]}, "mpd, msstft or both"),
        ({"periods": []}, "periods"),
        ({"windows": [126]}, "multiples of 4"),
        ({"width": 0}, "width"),
        ({"feature_matching": -1}, "feature_matching"),
        ({"layers": 3}, "layers"),
    ],
)
def test_options_that_cannot_be_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        build_losses({"waveform": 1.0, "adversarial_audio": options})
