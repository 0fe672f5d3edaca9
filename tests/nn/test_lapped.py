"""Spectral starts: orthonormal lapped waves, exact reconstruction, overlap-add as torch does it."""

import pytest
import torch
from torch.nn import functional as F

from vqtok.nn.lapped import fourier_frames, lapped_cosines, synthesis_weight
from vqtok.nn.time_layers import FramesFromSteps, StepsFromFrames

REACH = 3
every_kind = pytest.mark.parametrize("causal", [True, False])


def transform(hop: int, count: int, causal: bool) -> tuple[FramesFromSteps, StepsFromFrames]:
    """Sound to `count` waves a hop, and its transpose."""
    waves = lapped_cosines(hop, count, causal)
    frames = FramesFromSteps(1, count, hop, 2 * hop, causal)
    steps = StepsFromFrames(count, 1, hop, REACH, causal)
    with torch.no_grad():
        frames.proj.weight.copy_(waves)
        weight = synthesis_weight(waves, hop, REACH, steps.left, frames.left)
        steps.proj.weight.copy_(weight)
    return frames, steps


@every_kind
@pytest.mark.parametrize("hop", [2, 3, 16, 54])
def test_waves_are_orthonormal_and_so_are_their_shifts_by_a_hop(hop, causal):
    waves = lapped_cosines(hop, hop, causal)

    torch.testing.assert_close(waves @ waves.T, torch.eye(hop), rtol=0, atol=1e-5)
    overlap = waves[:, hop:] @ waves[:, :hop].T  # of a window with the next one
    assert overlap.abs().max() < 1e-5


@torch.no_grad()
@every_kind
@pytest.mark.parametrize("hop", [2, 7, 54])
def test_all_waves_give_every_sample_back_exactly(hop, causal):
    frames, steps = transform(hop, hop, causal)
    sound = torch.randn(2, 12 * hop, 1)

    back = steps(frames(sound))

    inside = slice(0, None) if causal else slice(hop, -hop)  # a window beyond each end is missing
    torch.testing.assert_close(back[:, inside], sound[:, inside], rtol=0, atol=1e-5)


@torch.no_grad()
@every_kind
def test_few_waves_keep_the_low_frequencies(causal):
    hop, rate = 54, 16_000
    frames, steps = transform(hop, 16, causal)
    time = torch.arange(40 * hop) / rate

    def loss(hertz: float) -> float:
        tone = torch.sin(2 * torch.pi * hertz * time)[None, :, None]
        inside = slice(hop, -hop)
        return float((steps(frames(tone)) - tone)[:, inside].square().mean() / 0.5)

    # a hop's 54 waves share 8 kHz, 16 of them are up to 2.4 kHz
    assert loss(500) < (0.05 if causal else 0.001)
    assert loss(6000) > 0.9


@every_kind
def test_no_waves_are_an_empty_matrix(causal):
    assert lapped_cosines(8, 0, causal).shape == (0, 16)


@pytest.mark.parametrize("hop", [2, 5, 54])
def test_fourier_frames_add_up_to_torchs_istft(hop):
    window, frames = 3 * hop, 9
    bins = window // 2 + 1
    spectra = torch.randn(frames, bins, dtype=torch.complex64)

    waves = fourier_frames(window)
    pieces = torch.cat([spectra.real, spectra.imag], 1) @ waves  # [frames, window]
    added = F.fold(
        pieces.T[None], (1, (frames - 1) * hop + window), (1, window), stride=(1, hop)
    ).flatten()

    want = torch.istft(
        spectra.T, window, hop, window=torch.hann_window(window), center=True, normalized=True
    )
    # torch divides by the sum of the squared windows, 9/8 for windows a third apart
    inside = slice(2 * hop, -2 * hop)
    got = added[window // 2 :][: len(want)] / (9 / 8)
    torch.testing.assert_close(got[inside], want[inside], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("window", [5, 10, 15])
@pytest.mark.parametrize(("left", "ahead"), [(2, 0), (1, 5), (1, 2), (0, 10)])
def test_synthesis_is_overlap_add(window, left, ahead):
    hop, width = 5, 4
    waves, latents = torch.randn(width, window), torch.randn(1, 8, width)
    steps = StepsFromFrames(width, 1, hop, REACH, causal=True)
    steps.left, steps.right = left, REACH - 1 - left

    steps.proj.weight.copy_(synthesis_weight(waves, hop, REACH, left, ahead))
    got = steps(latents)[0, :, 0]

    whole = F.conv_transpose1d(latents.mT, waves[:, None], stride=hop)[0, 0]
    whole = F.pad(whole, (0, 3 * hop))[ahead : ahead + 8 * hop]
    # what lies in the window but beyond the neighbours that a step can see is not there
    reachable = (window - 1 - ahead) // hop <= left and -(-ahead // hop) <= REACH - 1 - left
    assert torch.allclose(got, whole, atol=1e-5) == reachable
