"""Scores of sound against their definitions and other implementations."""

import importlib.util
import math

import pytest
import torch
from torchaudio.transforms import MelSpectrogram

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics.audio import mel_distance, pesq, si_sdr, stft_distance, stoi

RATE = 16_000


def voice(seconds=2.0, rate=RATE, seed=0):
    """Something that the speech scores take for speech: gated harmonics with noise. [1, T]"""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(int(seconds * rate)) / rate
    pitch = 120 + 30 * torch.sin(2 * math.pi * 0.7 * t)
    phase = 2 * math.pi * torch.cumsum(pitch, 0) / rate
    sound = sum(torch.sin(k * phase) / k for k in range(1, 20))
    gate = (torch.sin(2 * math.pi * 3 * t) > -0.3).float()
    noise = 0.02 * torch.randn(t.shape, generator=generator)
    return (0.1 * gate * sound + noise * gate)[None]


def noisy(sound, scale):
    return sound + scale * torch.randn(sound.shape, generator=torch.Generator().manual_seed(7))


def test_mel_distance_is_that_of_its_definition_by_torchaudio():
    theirs = torch.stack([voice(0.5, seed=1), voice(0.5, seed=2)])
    ours = noisy(theirs, 0.05)

    value = mel_distance(ours, theirs, RATE)

    wanted = []
    for window, mels in {32: 5, 64: 10, 128: 20, 256: 40, 512: 80, 1024: 160, 2048: 320}.items():
        mel = MelSpectrogram(
            sample_rate=RATE, n_fft=window, hop_length=window // 4, n_mels=mels, power=1.0,
            norm="slaney", mel_scale="slaney",
        )  # fmt: skip
        logs = [mel(sound).clamp(min=1e-5).log10() for sound in (ours, theirs)]
        wanted.append((logs[0] - logs[1]).abs().mean((1, 2, 3)))
    torch.testing.assert_close(value, torch.stack(wanted).mean(0), rtol=1e-4, atol=1e-6)


def test_stft_distance_is_that_of_its_definition():
    theirs = voice(0.5)
    ours = noisy(theirs, 0.05)

    value = stft_distance(ours, theirs)

    wanted = 0.0
    for n in (512, 1024, 2048):
        x, y = (
            torch.stft(s, n, n // 4, window=torch.hann_window(n), return_complex=True).abs()
            for s in (ours, theirs)
        )
        logs = (x.clamp(min=1e-5).log() - y.clamp(min=1e-5).log()).abs().mean()
        wanted += ((x - y).norm() / y.norm() + logs) / 3
    torch.testing.assert_close(value, wanted[None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decibels", [-5.0, 0.0, 12.5, 40.0])
def test_si_sdr_is_the_ratio_that_was_made_whatever_the_loudness(decibels):
    theirs = torch.randn(2, 1, 4000)
    noise = torch.randn(2, 1, 4000)
    noise -= (noise * theirs).sum(-1, True) / theirs.square().sum(-1, True) * theirs
    noise *= theirs.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)

    values = si_sdr(0.3 * (theirs + 10 ** (-decibels / 20) * noise), theirs)

    torch.testing.assert_close(values, torch.full((2,), decibels), rtol=0, atol=1e-3)


def test_more_noise_is_worse_by_every_score():
    theirs = voice()
    scores = {
        "mel": lambda x: -mel_distance(x, theirs, RATE),
        "stft": lambda x: -stft_distance(x, theirs),
        "si_sdr": lambda x: si_sdr(x, theirs),
        "pesq": lambda x: pesq(x, theirs, RATE),
        "stoi": lambda x: stoi(x, theirs, RATE),
    }
    for package in ("pesq", "pystoi"):
        if importlib.util.find_spec(package) is None:
            del scores[package.removeprefix("py")]

    for name, score in scores.items():
        good, bad, worse = (score(noisy(theirs, scale)).item() for scale in (0.003, 0.03, 0.3))
        assert good > bad > worse, name


def test_channels_are_averaged_and_sounds_are_not():
    theirs = torch.randn(2, 2, 3000)
    ours = theirs + 0.1 * torch.randn(2, 2, 3000) * torch.tensor([[[1.0], [5.0]], [[2.0], [2.0]]])

    for score in (si_sdr, lambda x, y: mel_distance(x, y, RATE)):
        each = torch.stack([score(ours[:, c : c + 1], theirs[:, c : c + 1]) for c in (0, 1)])
        torch.testing.assert_close(score(ours, theirs), each.mean(0))
        torch.testing.assert_close(score(ours[1], theirs[1]), score(ours, theirs)[1:])


def test_speech_scores_of_equal_sounds_are_the_best_there_are():
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    sound = torch.stack([voice(seed=1), voice(seed=2)])

    assert pesq(sound, sound, RATE).tolist() == pytest.approx([4.644] * 2, abs=1e-3)
    assert pesq(sound[..., ::2], sound[..., ::2], 8000).tolist() == pytest.approx(
        [4.549] * 2, abs=1e-3
    )
    assert stoi(sound, sound, RATE).tolist() == pytest.approx([1.0] * 2, abs=1e-4)


def test_silence_and_snippets_have_no_speech_score():
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    silence, snippet = torch.zeros(1, RATE), voice(0.1)

    for ours, theirs in ((silence, silence), (noisy(silence, 0.01), silence), (snippet, snippet)):
        assert math.isnan(pesq(ours, theirs, RATE).item())
        assert math.isnan(stoi(ours, theirs, RATE).item())


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("samples", [1, 2, 200, 1000])
def test_sounds_shorter_than_a_frame_have_no_stoi(samples, rate):
    pytest.importorskip("pystoi")
    sound = voice()[:, :samples] + 0.01

    assert math.isnan(stoi(sound, sound, rate).item())


def test_a_voice_that_came_back_as_zeros_has_no_pesq():
    pytest.importorskip("pesq")

    assert math.isnan(pesq(torch.zeros(1, 2 * RATE), voice(), RATE).item())


def test_pesq_refuses_a_rate_that_it_is_not_defined_at():
    pytest.importorskip("pesq")

    with pytest.raises(ConfigError, match="resample"):
        pesq(voice(), voice(), 24_000)


@pytest.mark.parametrize(("score", "package"), [(pesq, "pesq"), (stoi, "pystoi")])
def test_a_missing_package_is_named_with_what_to_install(score, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=rf"pip install {package}.*audio-metrics"):
        score(voice(), voice(), RATE)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (torch.zeros(1, 1, 8), torch.zeros(1, 1, 9)),
        (torch.zeros(8), torch.zeros(8)),
        (torch.zeros(1, 0), torch.zeros(1, 0)),
        (torch.zeros(1, 8).short(), torch.zeros(1, 8).short()),
    ],
)
def test_sounds_of_another_form_are_refused(ours, theirs):
    with pytest.raises(ShapeError):
        si_sdr(ours, theirs)
