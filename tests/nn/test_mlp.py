"""The residual block of two linear maps."""

import torch

from vqtok.nn.mlp import ResidualMLP


def test_a_fresh_block_changes_nothing_and_learns_all_the_same():
    block = ResidualMLP(6, 10)
    block.reset_parameters()
    x = torch.randn(2, 3, 6)

    out = block(x)
    out.square().sum().backward()

    assert torch.equal(out, x)
    assert block.down.weight.grad.abs().sum() > 0


def test_positions_do_not_see_each_other():
    block = ResidualMLP(6, 10)
    x = torch.randn(5, 6)

    torch.testing.assert_close(block(x)[2], block(x[2:3])[0])


def test_the_dtype_is_the_one_asked_for():
    block = ResidualMLP(4, 4, torch.float64)

    assert {p.dtype for p in block.parameters()} == {torch.float64}
