"""Companding and its inverse, two paths that wait for each other, Fourier frames."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.rvq_codec.codecs import HOP, small
from vqtok.models.rvq_codec.networks import (
    COMPAND,
    LOUDEST,
    Compand,
    Expand,
    FourierSteps,
    TwoPaths,
)
from vqtok.nn.time_layers import Chain, FramesFromSteps


@settings(deadline=None)
@given(level=st.floats(-6, 0), width=st.integers(1, 16))
def test_expanding_undoes_companding_at_every_loudness(level, width):
    latents = torch.randn(5, width) * 10**level

    companded = Compand()(latents)

    torch.testing.assert_close(Expand()(companded), latents, rtol=1e-3, atol=1e-6)
    lengths = torch.asinh(COMPAND * latents.norm(dim=-1))
    torch.testing.assert_close(companded.norm(dim=-1), lengths, rtol=1e-2, atol=1e-5)


def test_silence_stays_silence_and_has_gradients_and_no_latent_is_too_loud():
    silence = torch.zeros(2, 8, requires_grad=True)

    for layer in (Compand(), Expand()):
        out = layer(silence)
        out.sum().backward()
        assert (out == 0).all()
    assert silence.grad.isfinite().all()
    loudest = torch.sinh(torch.tensor(LOUDEST)) / COMPAND
    assert Expand()(torch.full((8,), 1e9)).norm().item() == pytest.approx(loudest.item(), rel=1e-4)


def test_expand_keeps_the_dtype_that_the_layers_after_it_have():
    assert Expand()(torch.randn(3, 4).bfloat16()).dtype == torch.bfloat16
    assert Compand()(torch.randn(3, 4).bfloat16()).dtype == torch.float32


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=8), swap=st.booleans())
def test_whichever_path_is_ahead_waits_for_the_other(sizes, swap):
    sizes.append(-sum(sizes) % 4 + 4)
    near = Chain(FramesFromSteps(2, 3, 4, 4, True))
    far = Chain(FramesFromSteps(2, 3, 4, 30, False), FramesFromSteps(3, 3, 1, 5, False))
    paths = TwoPaths(far, near) if swap else TwoPaths(near, far)
    x, outputs, state = torch.randn(2, sum(sizes), 2), [], None

    for number, piece in enumerate(x.split(sizes, 1), 1):
        y, state = paths.step(piece, state, last=number == len(sizes))
        outputs += [] if y is None else [y]

    torch.testing.assert_close(torch.cat(outputs, 1), paths(x), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
def test_fourier_steps_are_the_inverse_short_time_transform_of_their_spectra(channels, causal):
    hop, frames = 6, 12
    layer = FourierSteps(5, channels, hop, causal)
    layer.reset_parameters()
    latents = torch.randn(1, frames, 5)

    got = layer(latents)[0].T  # [C, S]

    parts = layer.spectrum(latents).unflatten(-1, (channels, 2, -1))[0]
    spectra = torch.polar(torch.exp(parts[..., 0, :].clamp(max=7) - 6), parts[..., 1, :])
    want = torch.istft(
        spectra.permute(1, 2, 0), 3 * hop, hop, window=torch.hann_window(3 * hop), normalized=True
    )
    # torch divides by the sum of the squared windows; it cuts off half a window at the start, where
    # our first hop is the first, or if not causal the second, third of the first frame
    shift = 3 * hop // 2 - (0 if causal else hop)
    inside = slice(2 * hop, want.shape[1] - 2 * hop)
    ours = got[:, shift:][:, : want.shape[1]] / (9 / 8)
    torch.testing.assert_close(ours[:, inside], want[:, inside], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_path_does_not_depend_on_where_in_a_signal_it_is(part, causal):
    module = getattr(small(causal=causal), part)
    x = torch.randn(1, 1, 40 * HOP) if part == "encoder" else torch.randn(1, 40, 8)
    axis, step = (2, HOP) if part == "encoder" else (1, 1)

    whole, later = module(x), module(x.roll(5 * step, axis))

    grid = 1 if part == "encoder" else 2
    per = whole.shape[grid] // 40
    inside = whole.narrow(grid, 12 * per, 10 * per)
    moved = later.narrow(grid, 17 * per, 10 * per)
    torch.testing.assert_close(inside, moved, rtol=0, atol=1e-5)
