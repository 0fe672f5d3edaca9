"""Spectra against numpy and torchaudio, and the laws of the distances built on them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.functional import melscale_fbanks

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics.spectra import (
    MEL_WINDOWS,
    log_mel,
    magnitudes,
    mel_bins,
    mel_difference,
    mel_filters,
    mirror,
    spectrum,
    stft_difference,
)


def reference(waveform, window, hop):
    """Magnitudes [F, frames] of one sound in float64, frame by frame."""
    padded = np.pad(waveform.double().numpy(), window // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    starts = range(0, len(padded) - window + 1, hop)
    return np.abs([np.fft.rfft(hann * padded[s : s + window]) for s in starts]).T


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300), st.sampled_from([(32, 8), (64, 16), (200, 50), (33, 7)]), st.integers(0, 9)
)
def test_magnitudes_equal_those_of_numpy_at_any_length(samples, form, seed):
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    window, hop = form

    size = magnitudes(waveform, window, hop)

    wanted = reference(waveform, window, hop)
    assert size.shape == wanted.shape
    assert size.shape[1] == (samples + window // 2 * 2 - window) // hop + 1
    np.testing.assert_allclose(size.numpy(), wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 90), st.integers(0, 90))
def test_mirroring_is_that_of_numpy(samples, left, right):
    row = torch.arange(samples, dtype=torch.float32)

    ours = mirror(row[None], left, right)

    assert ours.tolist() == [np.pad(row.numpy(), (left, right), mode="reflect").tolist()]


def test_leading_axes_are_kept_and_half_precision_is_widened():
    waveform = torch.randn(2, 3, 400).to(torch.bfloat16)

    size = magnitudes(waveform, 64, 16)

    assert (size.shape, size.dtype) == ((2, 3, 33, 26), torch.float32)
    torch.testing.assert_close(size[1, 2], magnitudes(waveform[1, 2].float(), 64, 16))


def test_autocast_does_not_touch_the_numbers():
    sound = torch.randn(1, 1, 2000)

    plain = log_mel(sound, 16_000, 256, 40)
    with torch.autocast("cpu", torch.bfloat16):
        inside = log_mel(sound, 16_000, 256, 40)

    assert torch.equal(inside, plain)


def test_silence_has_a_gradient_of_zero_and_not_nan():
    silence = torch.zeros(1, 1, 500, requires_grad=True)

    magnitudes(silence, 64, 16).sum().backward()

    assert torch.equal(silence.grad, torch.zeros(1, 1, 500))


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize("window", MEL_WINDOWS)
@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_mel_filters_are_those_of_torchaudio(rate, window):
    mels = mel_bins(window)

    ours = mel_filters(rate, window, mels)

    peer = melscale_fbanks(
        window // 2 + 1, 0.0, rate / 2, mels, rate, norm="slaney", mel_scale="slaney"
    )
    torch.testing.assert_close(ours, peer, rtol=0, atol=float(peer.max()) * 5e-5)


def test_the_seven_scales_have_5_to_320_bins():
    assert [mel_bins(window) for window in MEL_WINDOWS] == [5, 10, 20, 40, 80, 160, 320]


def test_a_filter_between_two_frequencies_hears_nothing_and_costs_nothing():
    filters = mel_filters(16_000, 32, 40)
    silent = filters.sum(0) == 0

    bands = log_mel(torch.randn(1, 1, 800), 16_000, 32, 40)

    assert 0 < silent.sum() < 40
    assert (bands[0, 0, silent] == -5).all()
    assert (bands[0, 0, ~silent] > -5).all()


def test_filters_made_in_inference_mode_still_serve_a_loss():
    with torch.inference_mode():
        log_mel(torch.randn(1, 1, 300), 12_345, 48, 6)
    sound = torch.randn(1, 1, 300, requires_grad=True)

    log_mel(sound, 12_345, 48, 6).sum().backward()

    assert sound.grad.abs().sum() > 0


@pytest.mark.parametrize("length", [1, 2, 31, 5000])
def test_differences_work_at_any_length_and_are_zero_for_equals(length):
    ours, theirs = torch.randn(2, 1, length), torch.randn(2, 1, length)

    far = [mel_difference(ours, theirs, 16_000), *stft_difference(ours, theirs)]
    near = [mel_difference(ours, ours, 16_000), *stft_difference(ours, ours)]

    assert all(value.shape == (2,) and (value > 0).all() for value in far)
    assert all(torch.equal(value, torch.zeros(2)) for value in near)


@pytest.mark.parametrize(
    "call",
    [
        lambda: spectrum(torch.zeros(9), 8, 9),
        lambda: spectrum(torch.zeros(9), 1, 1),
        lambda: mel_filters(0, 32, 5),
        lambda: mel_filters(16_000, 32, 0),
    ],
)
def test_a_form_that_cannot_be_is_refused(call):
    with pytest.raises(ConfigError):
        call()


@pytest.mark.parametrize("waveform", [torch.zeros(2, 0), torch.zeros(9).long(), torch.tensor(1.0)])
def test_what_is_no_waveform_is_refused(waveform):
    with pytest.raises(ShapeError, match="float waveform"):
        spectrum(waveform, 32, 8)
