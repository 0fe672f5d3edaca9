"""Laws of the causal Mamba block: chunks equal the whole, and no frame sees a later one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vqtok.errors import ConfigError, ShapeError
from vqtok.nn.causal_mamba import TAPS, CausalMambaBlock
from vqtok.nn.time_layers import Chain
from vqtok.ops.scan import state_space_scan_reference


def lively_block(width: int = 24) -> CausalMambaBlock:
    """A block whose mixer matters, for a long time: a fresh one is close to the identity."""
    block = CausalMambaBlock(width, state_size=4)
    with torch.no_grad():
        block.out_proj.weight.mul_(20)
        block.dt_bias.normal_()
        block.a_log.fill_(-4.0)
    return block.eval()


def in_chunks(block, x, sizes):
    outputs, state = [], None
    for chunk in x.split(sizes, 1):
        y, state = block.step(chunk, state, last=False)
        outputs.append(y)
    return torch.cat(outputs, 1), state


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_chunks_of_any_length_equal_the_whole(sizes):
    block, x = lively_block(), torch.randn(2, sum(sizes), 24)

    got, _ = in_chunks(block, x, sizes)

    assert got.shape == x.shape
    torch.testing.assert_close(got, block(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_frame_by_frame_equals_the_whole_and_the_state_does_not_grow():
    block, x = lively_block(), torch.randn(1, 300, 24)

    got, state = in_chunks(block, x, [1] * 300)

    torch.testing.assert_close(got, block(x), rtol=0, atol=1e-5)
    first = block.step(x[:, :1], None, last=False)[1]
    assert [t.shape for t in state] == [t.shape for t in first]
    # neither holds on to the memory of its chunk
    assert all(t.untyped_storage().nbytes() == t.numel() * 4 for t in state)


@torch.no_grad()
def test_it_fits_a_chain_and_holds_nothing_back():
    chain, x = Chain(lively_block(), lively_block()), torch.randn(2, 30, 24)

    first, state = chain.step(x[:, :11], None, last=False)
    nothing, same = chain.step(None, state, last=False)
    rest, state = chain.step(x[:, 11:], same, last=True)

    assert nothing is None
    torch.testing.assert_close(torch.cat([first, rest], 1), chain(x), rtol=0, atol=1e-4)
    assert chain.step(None, state, last=True)[0] is None


@torch.no_grad()
def test_the_block_is_what_its_formula_says():
    block, x = lively_block(), torch.randn(2, 20, 24)
    inner, n = 48, 4

    gate, u, b, c, dt = block.in_proj(block.norm(x)).split([inner, inner, n, n, block.heads], -1)
    padded = F.pad(u, (0, 0, TAPS - 1, 0))
    taps = block.conv.weight[:, 0]  # [inner, TAPS]
    u = F.silu(block.conv.bias + sum(padded[:, k : k + 20] * taps[:, k] for k in range(TAPS)))
    u = u.unflatten(-1, (block.heads, -1))
    rates = F.softplus(dt + block.dt_bias)
    y = state_space_scan_reference(u, rates, -block.a_log.exp(), b[:, :, None], c[:, :, None])
    y = (y + block.skip[:, None] * u).flatten(2)
    want = x + block.out_proj(block.inner_norm(y) * F.silu(gate))

    torch.testing.assert_close(block(x), want, rtol=0, atol=1e-5)


@torch.no_grad()
def test_no_frame_sees_a_later_one_and_every_frame_sees_all_before():
    block, x = lively_block(), torch.randn(1, 60, 24)
    changed = x.clone()
    changed[:, 30] += 1

    difference = (block(changed) - block(x)).abs().amax((0, 2))

    assert (difference[:30] == 0).all()
    assert (difference[30:] > 1e-5).all()


@torch.no_grad()
def test_silence_before_a_signal_changes_nothing():
    block, x = lively_block(), torch.randn(2, 40, 24)

    after = block(F.pad(x, (0, 0, 77, 0)))

    assert (after[:, :77] == 0).all()
    torch.testing.assert_close(after[:, 77:], block(x), rtol=0, atol=1e-5)


def test_gradients_pass_from_chunk_to_chunk():
    block, x = lively_block(), torch.randn(1, 30, 24, requires_grad=True)
    weights = torch.randn(1, 30, 24)

    want = torch.autograd.grad((block(x) * weights).sum(), [x, *block.parameters()])
    got = torch.autograd.grad(
        (in_chunks(block, x, [7, 11, 12])[0] * weights).sum(), [x, *block.parameters()]
    )

    for w, g in zip(want, got, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-5 * float(1 + w.abs().max()))


def test_a_fresh_block_is_close_to_the_identity_and_trains_everywhere():
    block, x = CausalMambaBlock(64), torch.randn(2, 50, 64)

    y = block(x)
    y.square().sum().backward()

    assert (y - x).abs().mean() < 0.1
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


@torch.no_grad()
def test_bfloat16_keeps_its_type_and_a_float32_state_of_the_scan():
    block, x = lively_block().bfloat16(), torch.randn(2, 9, 24).bfloat16()

    y, (tail, scanned) = block.step(x, None, last=True)

    assert y.dtype == tail.dtype == torch.bfloat16
    assert scanned.dtype == torch.float32


@torch.no_grad()
def test_the_work_is_linear_in_the_number_of_frames():
    block = CausalMambaBlock(32)

    def work(frames: int) -> int:
        with FlopCounterMode(display=False) as counter:
            block(torch.randn(1, frames, 32))
        return counter.get_total_flops()

    assert work(8192) == pytest.approx(4 * work(2048), rel=0.01)


def test_wrong_sizes_signals_and_states_are_refused():
    with pytest.raises(ConfigError, match="state_size=0"):
        CausalMambaBlock(16, state_size=0)
    with pytest.raises(ConfigError, match="width=0"):
        CausalMambaBlock(0)
    block = CausalMambaBlock(16)
    for wrong in (torch.zeros(4, 16), torch.zeros(2, 4, 8)):
        with pytest.raises(ShapeError, match=r"\[B, T, 16\]"):
            block(wrong)
    _, state = block.step(torch.zeros(3, 5, 16), None, last=False)
    with pytest.raises(ShapeError, match="batch of 3; 2"):
        block.step(torch.zeros(2, 5, 16), state, last=False)
