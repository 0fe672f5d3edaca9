"""Laws of the layers along time: pieces equal the whole; each is the convolution it stands for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from vqtok.errors import ShapeError
from vqtok.nn.time_layers import (
    Chain,
    ConvBlock,
    FramesFromSteps,
    RMSNorm,
    StepsFromFrames,
    TimeLayer,
    split_context,
)

WIDTH = 6
every_kind = pytest.mark.parametrize("causal", [True, False])


class Delays(TimeLayer):
    """Looks only ahead: x[t + 3] - x[t]."""

    right = 3

    def valid(self, x):
        return x[:, 3:] - x[:, :-3]


def lively_block(causal: bool, kernel: int = 5) -> ConvBlock:
    """A block that does something: a fresh one is the identity."""
    block = ConvBlock(WIDTH, kernel, causal)
    nn.init.normal_(block.gather.weight)
    return block


LAYERS = {
    "frames": lambda causal: FramesFromSteps(WIDTH, WIDTH, 4, 9, causal),
    "frames without overlap": lambda causal: FramesFromSteps(WIDTH, WIDTH, 4, 4, causal),
    "steps": lambda causal: StepsFromFrames(WIDTH, WIDTH, 3, 3, causal),
    "steps of one frame": lambda causal: StepsFromFrames(WIDTH, WIDTH, 3, 1, causal),
    "block": lively_block,
    "delays": lambda causal: Delays(),
    "chain": lambda causal: Chain(
        nn.Linear(WIDTH, WIDTH),
        FramesFromSteps(WIDTH, WIDTH, 2, 5, causal),
        RMSNorm(WIDTH),
        FramesFromSteps(WIDTH, WIDTH, 2, 4, causal),
        lively_block(causal),
        StepsFromFrames(WIDTH, WIDTH, 3, 3, causal),
        Delays(),
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def in_pieces(layer, x, sizes):
    """What `step` gives for pieces of these sizes, one by one; and the state at the end."""
    outputs, state = [], None
    for number, piece in enumerate(x.split(sizes, 1), 1):
        y, state = layer.step(piece, state, last=number == len(sizes))
        outputs.append(y)
    return outputs, state


def joined(outputs):
    return torch.cat([y for y in outputs if y is not None], 1)


def tensors_in(state):
    if isinstance(state, torch.Tensor):
        return [state]
    return [t for part in state or () for t in tensors_in(part)]


@torch.no_grad()
@every_kind
@every_layer
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_pieces_of_any_length_equal_the_whole(name, causal, data):
    sizes = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=8))
    sizes.append(-sum(sizes) % 4 + 4)  # whole groups of every stride
    layer, x = LAYERS[name](causal), torch.randn(2, sum(sizes), WIDTH)

    outputs, state = in_pieces(layer, x, sizes)

    torch.testing.assert_close(joined(outputs), layer(x), rtol=0, atol=1e-5)
    # a state holds on to nothing but itself
    assert all(t.untyped_storage().nbytes() == t.numel() * 4 for t in tensors_in(state))


@torch.no_grad()
@every_layer
def test_an_end_without_a_piece_gives_what_was_held_back(name):
    layer, x = LAYERS[name](False), torch.randn(2, 24, WIDTH)

    (first,), state = in_pieces(layer, x, [24])  # the whole, said to be the last piece
    held, state = layer.step(x, None, last=False)
    rest, _ = layer.step(None, state, last=True)

    torch.testing.assert_close(joined([held, rest]), first, rtol=0, atol=1e-5)
    assert layer.step(None, None, last=True)[0] is None
    nothing, same = layer.step(None, state, last=False)
    assert nothing is None
    assert [t.tolist() for t in tensors_in(same)] == [t.tolist() for t in tensors_in(state)]


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"delays", "chain"}))
def test_a_causal_layer_holds_nothing_back_and_sees_nothing_ahead(name):
    layer, x = LAYERS[name](True), torch.randn(1, 24, WIDTH)
    changed = x.clone()
    changed[:, 12:] += 1

    now, _ = layer.step(x[:, :12], None, last=False)

    assert layer.right == 0
    torch.testing.assert_close(now, layer(changed)[:, : now.shape[1]], rtol=0, atol=1e-5)
    assert now.shape[1] == 12 * layer(x).shape[1] // 24


@every_kind
@pytest.mark.parametrize("context", [0, 1, 6, 7])
def test_context_is_split_and_nothing_is_lost(context, causal):
    left, right = split_context(context, causal)

    assert left + right == context
    assert right == (0 if causal else context // 2)


@every_kind
@pytest.mark.parametrize("kernel", [1, 4, 7])
def test_a_block_reaches_exactly_its_kernel(kernel, causal):
    block, x = lively_block(causal, kernel), torch.randn(1, 40, WIDTH, requires_grad=True)

    (gradient,) = torch.autograd.grad(block(x)[0, 20].sum(), x)

    seen = gradient[0].abs().sum(-1).nonzero().squeeze(1)
    assert seen.tolist() == list(range(20 - block.left, 21 + block.right))
    assert block.left + block.right == kernel - 1


@torch.no_grad()
@every_kind
def test_frames_are_a_strided_convolution(causal):
    layer, x = FramesFromSteps(3, WIDTH, 4, 10, causal), torch.randn(2, 32, 3)

    padded = F.pad(x.mT, (layer.left, layer.right))
    want = F.conv1d(padded, layer.proj.weight.view(WIDTH, 3, 10), stride=4).mT

    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-5)


@torch.no_grad()
@every_kind
@pytest.mark.parametrize("reach", [1, 3])
def test_steps_are_a_transposed_convolution(causal, reach):
    layer, x = StepsFromFrames(WIDTH, 2, 5, reach, causal), torch.randn(2, 12, WIDTH)
    # a step's k-th neighbour reaches it with the tap that lies that many hops later in a window
    taps = layer.proj.weight.view(5, 2, WIDTH, reach).flip(-1)  # [up, C, D, reach]
    kernel = taps.permute(2, 1, 3, 0).flatten(2)  # [D, C, reach up]

    whole = F.conv_transpose1d(x.mT, kernel, stride=5).mT
    want = whole[:, 5 * layer.right : 5 * layer.right + 60]

    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-5)


@torch.no_grad()
@every_kind
def test_a_block_is_a_depthwise_convolution_and_an_mlp(causal):
    block, x = lively_block(causal), torch.randn(2, 30, WIDTH)

    padded = F.pad(x.mT, (block.left, block.right))
    mixed = F.conv1d(padded, block.taps.T[:, None], groups=WIDTH).mT
    want = x + block.gather(F.silu(block.spread(block.norm(mixed))))

    torch.testing.assert_close(block(x), want, rtol=0, atol=1e-4)


def test_a_fresh_block_is_the_identity_and_trains_everywhere_after_a_step():
    block, x = ConvBlock(WIDTH, 7, False), torch.randn(2, 30, WIDTH)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    target = torch.randn(2, 30, WIDTH)

    assert torch.equal(block(x), x)
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) - target).square().mean().backward()
        optimizer.step()

    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


@torch.no_grad()
def test_the_norm_is_torchs_in_float32_and_keeps_silence_and_dtype():
    norm, x = RMSNorm(WIDTH), torch.randn(2, 5, WIDTH)
    norm.weight.normal_()
    theirs = nn.RMSNorm(WIDTH, eps=1e-6)
    theirs.weight.copy_(norm.weight)

    torch.testing.assert_close(norm(x), theirs(x))
    half = x.bfloat16()
    assert torch.equal(norm(half), norm(half.float()).bfloat16())
    assert (norm(torch.zeros(1, WIDTH)) == 0).all()


def test_half_a_group_is_refused():
    with pytest.raises(ShapeError, match="multiple of 4; got 7"):
        LAYERS["frames"](True)(torch.zeros(1, 7, WIDTH))
