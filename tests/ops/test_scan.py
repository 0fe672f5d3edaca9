"""The chunked scans against the recurrence, against transformers' Mamba-2, and in their cost."""

import pytest
import torch
from torch.nn import functional as F
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer, mamba2_chunk_scan

from vqtok.errors import ConfigError, ShapeError
from vqtok.ops import state_space_scan
from vqtok.ops.scan import MAX_CARRY, bidirectional_scan, state_space_scan_reference


def scan_inputs(length, heads=4, groups=2, dtype=torch.float64, batch=2):
    return (
        torch.randn(batch, length, heads, 5, dtype=dtype),
        torch.rand(batch, length, heads, dtype=dtype) + 0.01,
        -torch.rand(heads, dtype=dtype) - 0.1,
        torch.randn(batch, length, groups, 3, dtype=dtype),
        torch.randn(batch, length, groups, 3, dtype=dtype),
    )


@pytest.mark.parametrize("length", [1, 5, 32, 33, 100, 32 * MAX_CARRY * 2 + 7])
def test_chunked_scan_equals_the_recurrence(length):
    inputs = scan_inputs(length)

    want = state_space_scan_reference(*inputs)
    got = state_space_scan(*(t.float() for t in inputs))

    assert (got - want).abs().max() <= 2e-5 * want.abs().max()


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 1000])
def test_the_chunk_size_changes_rounding_only(chunk):
    inputs = scan_inputs(77, dtype=torch.float32)

    difference = state_space_scan(*inputs, chunk=chunk) - state_space_scan(*inputs)

    assert difference.abs().max() < 2e-5


def test_gradients_equal_those_of_the_recurrence():
    inputs = [t.requires_grad_() for t in scan_inputs(70)]
    weights = torch.randn(2, 70, 4, 5, dtype=torch.float64)

    want = torch.autograd.grad((state_space_scan_reference(*inputs) * weights).sum(), inputs)
    got = torch.autograd.grad((state_space_scan(*inputs) * weights).sum(), inputs)

    for w, g in zip(want, got, strict=True):
        assert (w - g).abs().max() <= 1e-4 * w.abs().max()


def test_reverse_scan_is_the_scan_of_the_reversed_sequence():
    x, dt, a, b, c = scan_inputs(45, dtype=torch.float32)

    backward = state_space_scan(x, dt, a, b, c, reverse=True)
    flipped = state_space_scan(x.flip(1), dt.flip(1), a, b.flip(1), c.flip(1)).flip(1)

    assert torch.equal(backward, flipped)


@pytest.mark.parametrize("length", [1, 31, 32, 200, 32 * MAX_CARRY + 40])
def test_bidirectional_scan_is_the_sum_of_both_directions(length):
    x, dt, a, b, c = two_way_inputs(length)

    got = bidirectional_scan(x, dt, a, b, c)
    want = sum(
        state_space_scan(
            x, dt[..., i], a[:, i], b[:, :, i : i + 1], c[:, :, i : i + 1], reverse=i == 1
        )
        for i in range(2)
    )

    assert (got - want).abs().max() <= 2e-5 * want.abs().max()


def test_bidirectional_gradients_are_the_sum_of_both_directions():
    inputs = [t.requires_grad_() for t in two_way_inputs(50)]
    x, dt, a, b, c = inputs
    weights = torch.randn_like(x)
    one_way = [
        state_space_scan(
            x, dt[..., i], a[:, i], b[:, :, i : i + 1], c[:, :, i : i + 1], reverse=i == 1
        )
        for i in range(2)
    ]

    want = torch.autograd.grad((sum(one_way) * weights).sum(), inputs)
    got = torch.autograd.grad((bidirectional_scan(*inputs) * weights).sum(), inputs)

    for w, g in zip(want, got, strict=True):
        assert (w - g).abs().max() <= 1e-4 * w.abs().max()


def two_way_inputs(length):
    return (
        torch.randn(2, length, 3, 8),
        torch.rand(2, length, 3, 2) + 0.01,
        -torch.rand(3, 2) - 0.1,
        torch.randn(2, length, 2, 4),
        torch.randn(2, length, 2, 4),
    )


def test_strong_decay_gives_neither_infinities_nor_nans_nor_their_gradients():
    x, dt, a, b, c = (t.requires_grad_() for t in two_way_inputs(100))

    y = bidirectional_scan(x, dt * 50, a * 50, b, c)
    y.sum().backward()

    assert y.isfinite().all()
    assert all(t.grad.isfinite().all() for t in (x, dt, a, b, c))


@pytest.mark.parametrize("cut", [0, 1, 32, 45, 99, 32 * MAX_CARRY + 50])
@pytest.mark.parametrize("reverse", [False, True])
def test_two_halves_with_the_state_carried_equal_the_whole(cut, reverse):
    x, dt, a, b, c = scan_inputs(cut + 70, dtype=torch.float32)
    parts = [[t[:, :cut] for t in (x, dt, b, c)], [t[:, cut:] for t in (x, dt, b, c)]]
    if reverse:
        parts.reverse()

    outputs, state = [], None
    for px, pdt, pb, pc in parts:
        y, state = state_space_scan(
            px, pdt, a, pb, pc, reverse=reverse, initial_state=state, return_state=True
        )
        outputs.append(y)

    want, end = state_space_scan(x, dt, a, b, c, reverse=reverse, return_state=True)
    got = torch.cat(outputs[::-1] if reverse else outputs, 1)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    assert (state - end).abs().max() <= 1e-5 * end.abs().max()


@pytest.mark.parametrize("length", [1, 31, 64, 32 * MAX_CARRY * 2 + 7])
def test_states_are_those_of_the_recurrence(length):
    inputs, state = scan_inputs(length), torch.randn(2, 4, 5, 3, dtype=torch.float64)
    options = {"initial_state": state, "return_state": True}

    want, want_state = state_space_scan_reference(*inputs, **options)
    got, got_state = state_space_scan(
        *(t.float() for t in inputs), initial_state=state.float(), return_state=True
    )

    assert got_state.shape == (2, 4, 5, 3)
    assert (got - want).abs().max() <= 2e-5 * want.abs().max()
    assert (got_state - want_state).abs().max() <= 2e-5 * want_state.abs().max()
    # and the state before matters, or this would show nothing
    assert (want - state_space_scan_reference(*inputs)).abs().max() > 1e-3 * want.abs().max()


def test_gradients_flow_through_both_states():
    inputs = [t.requires_grad_() for t in scan_inputs(9, heads=2, groups=1, batch=1)]
    state = torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True)

    def carried(state, *tensors):
        return state_space_scan(*tensors, chunk=4, initial_state=state, return_state=True)

    assert torch.autograd.gradcheck(carried, [state, *inputs])


def test_a_state_stays_float32_whatever_the_input():
    inputs = scan_inputs(40, dtype=torch.bfloat16)

    y, state = state_space_scan(*inputs, return_state=True)

    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32


def test_an_empty_sequence_leaves_the_state_as_it_is():
    state = torch.randn(2, 4, 5, 3)

    y, after = state_space_scan(
        *scan_inputs(0, dtype=torch.float32), initial_state=state, return_state=True
    )

    assert y.shape == (2, 0, 4, 5)
    assert torch.equal(after, state)


def test_an_empty_sequence_gives_an_empty_sequence():
    assert state_space_scan(*scan_inputs(0)).shape == (2, 0, 4, 5)
    assert bidirectional_scan(*two_way_inputs(0)).shape == (2, 0, 3, 8)


@pytest.mark.parametrize("length", [17, 300])
def test_values_are_those_of_transformers_chunk_scan(length):
    x, dt, a, b, c = scan_inputs(length, dtype=torch.float32)
    bias = torch.randn(4)

    want = mamba2_chunk_scan(
        x, dt, a, b, c, chunk_size=16, D=None, z=None, dt_bias=bias, dt_softplus=True
    )
    got = state_space_scan(x, F.softplus(dt + bias), a, b, c)

    assert (got - want).abs().max() <= 2e-5 * want.abs().max()


def test_a_whole_mamba2_mixer_can_be_run_on_our_scan_with_its_own_weights():
    config = Mamba2Config(
        hidden_size=32, num_heads=8, head_dim=8, state_size=16, n_groups=2, num_hidden_layers=1
    )
    mixer = Mamba2Mixer(config, 0).eval()
    hidden = torch.randn(2, 70, 32)

    with torch.no_grad():
        gate, mixed, dt = mixer.in_proj(hidden).split([64, mixer.conv_dim, 8], -1)
        mixed = F.silu(mixer.conv1d(mixed.mT)[..., :70]).mT
        x, b, c = mixed.split([64, 32, 32], -1)
        x, b, c = x.unflatten(-1, (8, 8)), b.unflatten(-1, (2, 16)), c.unflatten(-1, (2, 16))
        y = state_space_scan(x, F.softplus(dt + mixer.dt_bias), -mixer.A_log.exp(), b, c)
        y = mixer.norm((y + mixer.D[:, None] * x).flatten(2), gate)
        got, want = mixer.out_proj(y), mixer(hidden)

    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_bfloat16_comes_back_as_bfloat16_computed_in_float32():
    x, dt, a, b, c = scan_inputs(40, dtype=torch.bfloat16)

    got = state_space_scan(x, dt, a, b, c)
    want = state_space_scan(*(t.float() for t in (x, dt, a, b, c)))

    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want.bfloat16())


def test_shapes_that_do_not_fit_are_refused_with_the_shapes():
    x, dt, a, b, c = scan_inputs(10)

    with pytest.raises(ShapeError, match=r"\[2, 10, 3\]"):
        state_space_scan(x, dt[..., :3], a, b, c)
    with pytest.raises(ShapeError, match="G dividing H"):
        state_space_scan(x, dt, a, b.repeat(1, 1, 2, 1)[:, :, :3], c.repeat(1, 1, 2, 1)[:, :, :3])
    with pytest.raises(ShapeError, match="bidirectional"):
        bidirectional_scan(x, dt, a, b, c)
    with pytest.raises(ShapeError, match=r"initial_state .*\[2, 4, 5, 3\]"):
        state_space_scan(x, dt, a, b, c, initial_state=torch.zeros(2, 4, 3, 5))
    with pytest.raises(ConfigError, match="chunk"):
        state_space_scan(x, dt, a, b, c, chunk=0)


def test_float64_stays_float64_and_passes_a_gradient_check():
    inputs = [t.requires_grad_() for t in scan_inputs(9, heads=2, groups=1, batch=1)]
    two_way = [t.double().requires_grad_() for t in two_way_inputs(7)]

    assert torch.autograd.gradcheck(lambda *t: state_space_scan(*t, chunk=4), inputs)
    assert torch.autograd.gradcheck(bidirectional_scan, two_way)


def test_autocast_changes_nothing():
    inputs, two_way = scan_inputs(40, dtype=torch.float32), two_way_inputs(40)
    want = state_space_scan(*inputs), bidirectional_scan(*two_way)

    with torch.autocast("cpu", torch.bfloat16):
        got = state_space_scan(*inputs), bidirectional_scan(*two_way)

    assert torch.equal(want[0], got[0])
    assert torch.equal(want[1], got[1])
