"""residual_codes: greedy, stage by stage, in blocks."""

import pytest
import torch

from vqtok.errors import ShapeError
from vqtok.ops import nearest, nearest_code, residual_codes
from vqtok.ops.residual import residual_codes_op, residual_codes_reference


def regret_of_stages(latents, codebooks, codes, regret):
    """Each stage is judged on the residual that the codes before it leave, in float64."""
    residual, worst = latents.double(), 0.0
    for codebook, chosen in zip(codebooks.double(), codes.unbind(1), strict=True):
        worst = max(worst, regret(residual, codebook, chosen))
        residual = residual - codebook[chosen]
    return worst


@pytest.mark.parametrize("search", [residual_codes, residual_codes_reference])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "q", "k", "d"), [(1, 1, 1, 1), (63, 3, 100, 7), (300, 4, 257, 40)])
def test_every_stage_takes_the_nearest_code_of_what_is_left(
    n, q, k, d, dtype, search, device, regret
):
    latents = torch.randn(n, d).to(dtype)
    codebooks = (torch.randn(q, k, d) / 2 ** torch.arange(q)[:, None, None]).to(dtype)

    codes = search(latents.to(device), codebooks.to(device)).cpu()

    assert codes.shape == (n, q)
    assert regret_of_stages(latents, codebooks, codes, regret) <= 1e-5


def test_it_equals_nearest_code_stage_by_stage(device):
    latents, codebooks = torch.randn(200, 8, device=device), torch.randn(3, 50, 8, device=device)

    residual, wanted = latents, []
    for codebook in codebooks:
        wanted.append(nearest_code(residual, codebook))
        residual = residual - codebook[wanted[-1]]

    assert torch.equal(residual_codes(latents, codebooks), torch.stack(wanted, 1))


def test_fewer_codebooks_give_the_first_columns():
    latents, codebooks = torch.randn(90, 8), torch.randn(4, 64, 8)

    assert torch.equal(
        residual_codes(latents, codebooks[:2]), residual_codes(latents, codebooks)[:, :2]
    )


def test_blocks_of_rows_change_nothing(monkeypatch, regret):
    latents, codebooks = torch.randn(501, 8), torch.randn(3, 64, 8)
    blocks = []
    whole = nearest.row_blocks

    def small(rows, bytes_a_row, *rest):
        for block in whole(rows, bytes_a_row, 100 * bytes_a_row):
            blocks.append(len(block))
            yield block

    monkeypatch.setattr("vqtok.ops.residual.row_blocks", small)
    codes = residual_codes(latents, codebooks)

    assert blocks == [100, 100, 100, 100, 100, 1]
    assert regret_of_stages(latents, codebooks, codes, regret) <= 1e-6


def test_the_latents_are_left_as_they_were():
    latents, codebooks = torch.randn(50, 8), torch.randn(3, 64, 8)
    before = latents.clone()

    residual_codes(latents, codebooks)

    assert torch.equal(latents, before)


def test_no_latents_give_no_codes(device):
    codes = residual_codes(torch.empty(0, 8, device=device), torch.randn(3, 5, 8, device=device))

    assert codes.shape == (0, 3)
    assert codes.dtype == torch.int64


@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 7), (0, 5, 8), (2, 0, 8)])
def test_codebooks_that_do_not_fit_are_refused(shape):
    with pytest.raises(ShapeError, match=r"residual_codes wants .*\[Q, K, D\]"):
        residual_codes(torch.randn(3, 8), torch.randn(shape))


def test_the_op_passes_opcheck_and_compiles_as_one_graph():
    latents = torch.randn(40, 16, requires_grad=True)
    codebooks = torch.randn(3, 70, 16)

    results = torch.library.opcheck(residual_codes_op, (latents, codebooks))
    compiled = torch.compile(residual_codes, fullgraph=True, backend="aot_eager")

    assert set(results.values()) == {"SUCCESS"}
    assert torch.equal(compiled(latents, codebooks), residual_codes(latents, codebooks))
