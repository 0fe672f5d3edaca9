import pytest
import torch

from vqtok.errors import ConfigError
from vqtok.metrics.audio import mel_distance, si_sdr
from vqtok.training.audio_losses import ComplexSTFTLoss, MelLoss, STFTLoss
from vqtok.training.losses import build_losses

RATE = 16_000
SECTIONS = {
    "mel": {"sample_rate_hz": RATE},
    "stft": {},
    "complex_stft": {},
    "waveform": {},
    "si_sdr": {},
}


def pair(batch=2, samples=3000):
    target = 0.1 * torch.randn(batch, 1, samples)
    return target + 0.05 * torch.randn(batch, 1, samples), target


@pytest.mark.parametrize("name", SECTIONS)
def test_a_loss_is_lowest_and_flat_or_falling_towards_the_target(name):
    losses, (ours, target) = build_losses({name: SECTIONS[name]}), pair()
    ours = ours.requires_grad_()

    values = [losses(target + s * (ours - target), target)[0] for s in (1.0, 0.5, 0.1)]
    values[0].backward()

    assert values[0] > values[1] > values[2]
    # a small step against the gradient helps
    step = 1e-3 * ours.grad / ours.grad.norm()
    assert losses(ours - step, target)[0] < values[0]


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("case", ["silent target", "silent reconstruction", "both", "equal"])
def test_gradients_stay_finite_at_silence_and_at_the_target(name, case):
    ours, target = pair()
    if case in ("silent target", "both"):
        target = torch.zeros_like(target)
    if case in ("silent reconstruction", "both"):
        ours = torch.zeros_like(ours)
    ours = (target if case == "equal" else ours).clone().requires_grad_()

    value, _ = build_losses({name: SECTIONS[name]})(ours, target)
    value.backward()

    assert value.isfinite()
    assert ours.grad.isfinite().all()


@pytest.mark.parametrize("name", SECTIONS)
def test_half_precision_and_autocast_change_nothing_but_the_input(name):
    losses = build_losses({name: SECTIONS[name]})
    ours, target = (x.bfloat16() for x in pair())

    wanted = losses(ours.float(), target.float())[0]
    with torch.autocast("cpu", torch.bfloat16):
        value = losses(ours, target)[0]

    assert value.dtype == torch.float32
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_single_sample_and_two_channels_are_sounds_too(name):
    losses = build_losses({name: SECTIONS[name]})

    for shape in ((1, 1, 1), (2, 2, 700)):
        assert losses(torch.rand(shape), torch.rand(shape))[0].isfinite()


def test_mel_and_si_sdr_are_the_reported_scores():
    ours, target = pair()

    _, named = build_losses({"mel": SECTIONS["mel"], "si_sdr": 1.0})(ours, target)

    torch.testing.assert_close(named["mel"], mel_distance(ours, target, RATE).mean())
    torch.testing.assert_close(named["si_sdr"], -si_sdr(ours, target).mean() / 10)


def test_fewer_windows_are_the_mean_of_those_alone():
    ours, target = pair()
    both = MelLoss(RATE, [64, 512])(ours, target)
    each = [MelLoss(RATE, [w])(ours, target) for w in (64, 512)]

    torch.testing.assert_close(both, sum(each) / 2)


def test_magnitude_losses_do_not_hear_a_sign_and_the_complex_one_does():
    _, target = pair()

    deaf = [MelLoss(RATE), STFTLoss(), ComplexSTFTLoss(phase=0.0)]

    assert all(loss(-target, target).item() == 0 for loss in deaf)
    # 0.3 * 2^2 of the compressed power, where silence costs all of it once
    assert ComplexSTFTLoss()(-target, target) > ComplexSTFTLoss()(0 * target, target)


def test_the_complex_loss_without_compression_is_the_squared_error_of_spectra():
    ours, target = pair(1)

    value = ComplexSTFTLoss([256], power=1.0, phase=1.0)(ours, target)

    spectra = [
        torch.stft(x[:, 0], 256, 64, window=torch.hann_window(256), return_complex=True) * 4 / 256
        for x in (ours, target)
    ]
    torch.testing.assert_close(value, (spectra[0] - spectra[1]).abs().square().mean())


def test_compression_raises_the_magnitudes_to_the_power_and_keeps_the_phase():
    tone = torch.sin(2 * torch.pi * 16 / 256 * torch.arange(4096))[None, None]
    loss = ComplexSTFTLoss([256], power=0.3, phase=1.0)

    value, half = loss(tone, -tone), loss(0.5 * tone, -0.5 * tone)

    # twice the compressed magnitude apart, squared: half as loud is 0.5 ** 0.6 of it
    assert half / value == pytest.approx(0.5**0.6, abs=0.02)


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"mel": 1.0}, r"losses\.mel wants sample_rate_hz"),
        ({"mel": {"sample_rate_hz": 0}}, "above 0"),
        ({"mel": {"sample_rate_hz": RATE, "windows": []}}, "windows"),
        ({"stft": {"windows": [2]}}, "at least 4"),
        ({"stft": {"windows": [512.0]}}, "at least 4"),
        ({"complex_stft": {"power": 0}}, "power"),
        ({"complex_stft": {"phase": 2}}, "phase"),
        ({"waveform": {"args": 1}}, "takes weight; got"),
    ],
)
def test_options_that_cannot_be_are_refused(section, match):
    with pytest.raises(ConfigError, match=match):
        build_losses(section)
