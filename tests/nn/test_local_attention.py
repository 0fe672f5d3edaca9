"""Laws of local attention: attention within a band, the same everywhere, in linear work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vqtok.errors import ConfigError, ShapeError
from vqtok.nn.local_attention import MIN_BLOCK, LocalAttentionBlock, rotated

WIDTH, HEADS = 16, 2
every_kind = pytest.mark.parametrize("causal", [True, False])


def lively_block(window: int = 6, causal: bool = True) -> LocalAttentionBlock:
    """A block that does something: a fresh one is the identity. Its attention is sharp."""
    block = LocalAttentionBlock(WIDTH, HEADS, window, causal)
    with torch.no_grad():
        block.mixed.reset_parameters()
        block.gather.reset_parameters()
        block.queries.weight.mul_(4)
    return block.eval()


def attention_frame_by_frame(block: LocalAttentionBlock, x: torch.Tensor) -> torch.Tensor:
    """The definition: each frame by itself, with complex rotations by the distance to its keys."""
    normed, outputs, half = block.norm(x), [], WIDTH // HEADS // 2
    context = F.pad(normed, (0, 0, block.left, block.right))
    rates = 10_000.0 ** -(torch.arange(half) / half)
    for t in range(x.shape[1]):
        near = context[:, t : t + block.left + 1 + block.right]
        distance = torch.arange(near.shape[1]) - block.left
        q = block.queries(normed[:, t]).unflatten(-1, (HEADS, 2, half))
        k, v = block.keys_values(near).chunk(2, -1)
        k = k.unflatten(-1, (HEADS, 2, half))
        q, k = (torch.complex(z[..., 0, :], z[..., 1, :]) for z in (q, k))
        k = k * torch.exp(1j * distance[:, None, None] * rates)
        scores = (q.conj()[:, None] * k).real.sum(-1) / (2 * half) ** 0.5  # [B, L, H]
        v = v.unflatten(-1, (HEADS, -1))
        outputs.append((scores.softmax(1)[..., None] * v).sum(1).flatten(1))
    x = x + block.mixed(torch.stack(outputs, 1))
    return x + block.gather(F.silu(block.spread(block.mlp_norm(x))))


@torch.no_grad()
@every_kind
@pytest.mark.parametrize("frames", [1, 5, MIN_BLOCK, 3 * MIN_BLOCK + 7])
@pytest.mark.parametrize("window", [1, 6, 40])
def test_every_frame_attends_to_its_window_and_nothing_else(frames, window, causal):
    block, x = lively_block(window, causal), torch.randn(2, frames, WIDTH)

    torch.testing.assert_close(block(x), attention_frame_by_frame(block, x), rtol=0, atol=1e-5)


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 150), frames=st.integers(1, 100), causal=st.booleans())
def test_a_window_of_a_long_signal_gives_the_frames_of_the_whole(start, frames, causal):
    block, x = lively_block(causal=causal), torch.randn(1, 250, WIDTH)
    padded = F.pad(x, (0, 0, block.left, block.right))

    part = block.valid(padded[:, start : start + block.left + frames + block.right])

    torch.testing.assert_close(part, block(x)[:, start : start + frames], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_frame_far_into_a_signal_is_as_exact_as_the_first():
    block, x = lively_block(causal=False), torch.randn(1, 40, WIDTH)
    far = F.pad(x, (0, 0, 200_000, 0))

    assert (block(far)[:, -40:] - block(x)).abs().max() < 1e-5


@torch.no_grad()
@every_kind
def test_silence_around_a_signal_changes_nothing(causal):
    block, x = lively_block(causal=causal), torch.randn(2, 30, WIDTH)

    y = block(F.pad(x, (0, 0, 50, 20)))[:, 50:80]

    torch.testing.assert_close(y, block(x), rtol=0, atol=1e-5)


@every_kind
def test_the_reach_is_the_window_to_the_frame(causal):
    block, x = lively_block(6, causal), torch.randn(1, 80, WIDTH, requires_grad=True)

    (gradient,) = torch.autograd.grad(block(x)[0, 40].sum(), x)

    seen = gradient[0].abs().sum(-1).nonzero().squeeze(1)
    assert seen.tolist() == list(range(34, 41 if causal else 47))


@torch.no_grad()
@every_kind
def test_steps_equal_the_whole(causal):
    block, x = lively_block(causal=causal), torch.randn(2, 90, WIDTH)
    outputs, state = [], None

    pieces = x.split([3, 1, 40, 46], 1)
    for number, piece in enumerate(pieces, 1):
        y, state = block.step(piece, state, last=number == len(pieces))
        outputs += [] if y is None else [y]

    torch.testing.assert_close(torch.cat(outputs, 1), block(x), rtol=0, atol=1e-5)


def test_a_fresh_block_is_the_identity_and_learns():
    block, x = LocalAttentionBlock(WIDTH, HEADS, 6, False), torch.randn(2, 30, WIDTH)

    y = block(x)
    y.square().sum().backward()

    assert torch.equal(y, x)
    assert block.mixed.weight.grad.abs().sum() > 0
    assert block.gather.weight.grad.abs().sum() > 0
    assert not any(name.endswith("bias") for name, _ in block.named_parameters())


@torch.no_grad()
def test_work_is_linear_in_the_frames():
    block = LocalAttentionBlock(WIDTH, HEADS, 16, False)

    def work(frames: int) -> int:
        with FlopCounterMode(display=False) as counter:
            block(torch.randn(1, frames, WIDTH))
        return counter.get_total_flops()

    assert work(8192) == pytest.approx(4 * work(2048), rel=0.05)


@torch.no_grad()
def test_turned_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 8)

    products = [
        (rotated(q, torch.tensor([i])) * rotated(k, torch.tensor([i + 3]))).sum()
        for i in (0, 5, 90)
    ]

    torch.testing.assert_close(torch.stack(products), products[0].expand(3), rtol=0, atol=1e-5)
    other = (rotated(q, torch.tensor([0])) * rotated(k, torch.tensor([4]))).sum()
    assert abs(other - products[0]) > 1e-3


@torch.no_grad()
def test_bfloat16_stays_bfloat16_and_no_frames_give_no_frames():
    block = lively_block(causal=False)

    assert block.valid(torch.zeros(2, 12, WIDTH)).shape == (2, 0, WIDTH)
    assert block(torch.zeros(0, 9, WIDTH)).shape == (0, 9, WIDTH)
    y = block.bfloat16()(torch.randn(2, 50, WIDTH).bfloat16())
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


def test_wrong_sizes_and_signals_are_refused():
    for width, heads, window in ((16, 3, 4), (6, 6, 4), (16, 2, 0), (16, 0, 4)):
        with pytest.raises(ConfigError, match="even multiple of heads"):
            LocalAttentionBlock(width, heads, window, True)
    block = LocalAttentionBlock(WIDTH, HEADS, 6, True)
    for wrong in (torch.zeros(2, 5, WIDTH), torch.zeros(2, 30, 8), torch.zeros(30, WIDTH)):
        with pytest.raises(ShapeError, match="local attention wants"):
            block.valid(wrong)
