"""Laws of the two-way Mamba block: it looks both ways, along rows and along columns."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vqtok.errors import ConfigError, ShapeError
from vqtok.nn.vision_mamba import BidirectionalMambaBlock


def lively_block(**options):
    """A block whose mixer matters: a fresh one is close to the identity."""
    block = BidirectionalMambaBlock(16, state_size=4, head_dim=8, **options)
    with torch.no_grad():
        block.out_proj.weight.mul_(20)
        block.dt_bias.normal_()
    return block.eval()


@torch.no_grad()
def swapped(block):
    """The same block with its directions exchanged and its convolution mirrored."""
    other = BidirectionalMambaBlock(16, block.state_size, head_dim=8, scan=block.scan)
    other.load_state_dict(block.state_dict())
    other.dt_bias.copy_(block.dt_bias.flip(-1))
    other.a_log.copy_(block.a_log.flip(-1))
    rows = block.in_proj.weight.split([block.inner] * 2 + [4 * 4, 2 * block.heads])
    maps = rows[2].unflatten(0, (2, 2, 4)).flip(1).flatten(0, 2)  # (b or c, direction, N)
    dt = rows[3].unflatten(0, (block.heads, 2)).flip(1).flatten(0, 1)
    other.in_proj.weight.copy_(torch.cat([rows[0], rows[1], maps, dt]))
    other.conv.weight.copy_(block.conv.weight.flip(-1, -2))
    return other.eval()


@torch.no_grad()
@pytest.mark.parametrize("scan", ["rows", "columns"])
def test_reversing_the_input_swaps_the_directions(scan):
    block, grid = lively_block(scan=scan), torch.randn(2, 5, 7, 16)

    there = block(grid)
    back = swapped(block)(grid.flip(1, 2)).flip(1, 2)

    assert (there - back).abs().max() < 1e-5
    # and the two directions are not the same one: without the swap the law breaks
    assert (there - block(grid.flip(1, 2)).flip(1, 2)).abs().max() > 1e-2


@pytest.mark.parametrize(("source", "target"), [(0, 40), (40, 0)])
def test_every_token_reaches_every_other_in_both_directions(source, target):
    block, x = lively_block(), torch.randn(1, 41, 16, requires_grad=True)
    block.a_log.data.fill_(-4.0)  # forgets slowly, so that one scan alone carries this far

    (gradient,) = torch.autograd.grad(block(x)[0, target].sum(), x)

    assert gradient[0, source].abs().max() > 1e-6


@torch.no_grad()
def test_columns_are_rows_of_the_transposed_image():
    rows, columns = lively_block(scan="rows"), lively_block(scan="columns")
    columns.load_state_dict(rows.state_dict())
    rows.conv.weight.copy_(columns.conv.weight.mT)
    grid = torch.randn(2, 6, 4, 16)

    difference = columns(grid) - rows(grid.transpose(1, 2)).transpose(1, 2)

    assert difference.abs().max() < 1e-5


@torch.no_grad()
def test_a_sequence_is_a_grid_of_one_row():
    block, x = lively_block(), torch.randn(3, 30, 16)

    assert (block(x) - block(x[:, None])[:, 0]).abs().max() < 1e-6


@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch():
    block, x = lively_block(), torch.randn(4, 6, 6, 16)

    together, alone = block(x), torch.cat([block(item[None]) for item in x])

    assert (together - alone).abs().max() < 1e-5


def test_a_fresh_block_is_close_to_the_identity_and_trains_everywhere():
    block, x = BidirectionalMambaBlock(64), torch.randn(2, 50, 64)

    y = block(x)
    y.square().sum().backward()

    assert (y - x).abs().mean() < 0.1
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


def test_sizes_and_scans_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="head_dim"):
        BidirectionalMambaBlock(16, head_dim=5)
    with pytest.raises(ConfigError, match="diagonal"):
        BidirectionalMambaBlock(16, scan="diagonal")
    with pytest.raises(ShapeError, match="columns"):
        BidirectionalMambaBlock(16, scan="columns")(torch.zeros(1, 4, 16))
    with pytest.raises(ConfigError, match="head_dim"):
        BidirectionalMambaBlock(16, head_dim=-8)
    for wrong in (torch.zeros(4, 16), torch.zeros(2, 4, 8)):
        with pytest.raises(ShapeError, match=r"\[B, L, D\]"):
            BidirectionalMambaBlock(16)(wrong)


@torch.no_grad()
def test_the_work_is_linear_in_the_number_of_tokens():
    block = BidirectionalMambaBlock(32)

    def work(side: int) -> int:
        with FlopCounterMode(display=False) as counter:
            block(torch.randn(1, side, side, 32))
        return counter.get_total_flops()

    # from 1,024 tokens on; below, the states of fewer chunks are carried and a token costs less
    for side in (32, 64, 128):
        assert work(2 * side) == pytest.approx(4 * work(side), rel=0.01)
