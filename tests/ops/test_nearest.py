"""nearest_code: the law of the least distance, ties, dtypes, refusals, memory, compilation."""

import subprocess
import sys

import pytest
import torch

from vqtok.errors import ShapeError
from vqtok.ops import nearest_code
from vqtok.ops.nearest import (
    MAX_BLOCK_BYTES,
    move_origin,
    nearest_code_op,
    nearest_code_reference,
    row_blocks,
)

SHAPES = [(1, 1, 1), (1, 2, 1), (63, 1000, 7), (63, 1, 5), (515, 259, 33), (40, 300, 64)]


@pytest.mark.parametrize("search", [nearest_code, nearest_code_reference])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k", "d"), SHAPES)
def test_chosen_code_is_never_farther_than_the_best(n, k, d, dtype, search, device, regret):
    latents, codebook = torch.randn(n, d).to(dtype), torch.randn(k, d).to(dtype)

    chosen = search(latents.to(device), codebook.to(device)).cpu()

    assert regret(latents, codebook, chosen) <= 1e-5


def test_half_precision_latents_meet_a_float32_codebook_at_float32(device):
    latents, codebook = torch.randn(200, 16).bfloat16(), torch.randn(500, 16)

    mixed = nearest_code(latents.to(device), codebook.to(device))

    assert torch.equal(mixed, nearest_code(latents.float().to(device), codebook.to(device)))


def test_float64_stays_float64(device):
    # as float32 both codes are 1
    codebook = torch.tensor([[1.0], [1.0 + 1e-12]], dtype=torch.float64, device=device)

    chosen = nearest_code(codebook, codebook)

    assert chosen.tolist() == [0, 1]


def test_no_latents_give_no_codes(device):
    chosen = nearest_code(torch.empty(0, 8, device=device), torch.randn(5, 8, device=device))

    assert chosen.shape == (0,)
    assert chosen.dtype == torch.int64


@pytest.mark.parametrize("width", [6, 40])
def test_strided_arguments_give_the_codes_of_their_copies(width, device):
    latents = torch.randn(width, 300, device=device).T
    codebook = torch.randn(width, 700, device=device).T[::2]

    chosen = nearest_code(latents, codebook)

    assert not latents.is_contiguous()
    assert torch.equal(chosen, nearest_code(latents.contiguous(), codebook.contiguous()))


@pytest.mark.parametrize("search", [nearest_code, nearest_code_reference])
@pytest.mark.parametrize("width", [4, 40])
def test_equal_distances_give_the_lowest_index(width, search):
    latents = torch.randint(-2, 3, (500, width)).float()
    codebook = torch.randint(-2, 3, (150, width)).float().repeat(2, 1)  # every code twice

    chosen = search(latents, codebook)

    # small integers: every distance is exact, and argmin gives the first
    squares = (latents[:, None] - codebook).square().sum(2)
    assert torch.equal(chosen, squares.argmin(1))


@pytest.mark.parametrize("search", [nearest_code, nearest_code_reference])
@pytest.mark.parametrize("width", [8, 64])
def test_codes_far_from_the_origin_are_told_apart(width, search, regret):
    offset = torch.linspace(-3000, 3000, width)
    latents, codebook = torch.randn(300, width) + offset, torch.randn(400, width) + offset

    chosen = search(latents, codebook)

    assert regret(latents, codebook, chosen) <= 1e-4


def test_a_codebook_around_the_origin_is_left_as_it_is():
    codebook = torch.randint(-9, 10, (50, 3)).float()

    center, moved = move_origin(codebook)

    assert torch.equal(center, torch.zeros(3))
    assert torch.equal(moved, codebook)


@pytest.mark.parametrize("width", [8, 64])
def test_a_row_alone_has_no_regret_beside_its_code_in_company(width, regret):
    latents, codebook = torch.randn(100, width), torch.randn(513, width)

    alone = torch.cat([nearest_code(row[None], codebook) for row in latents])

    assert regret(latents, codebook, alone) <= 1e-6
    assert (alone == nearest_code(latents, codebook)).float().mean() > 0.98


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_row_that_is_not_finite_gets_a_code_of_the_codebook(bad, width, device):
    latents, codebook = torch.randn(70, width), torch.randn(301, width)
    clean = nearest_code(latents.to(device), codebook.to(device)).cpu()
    latents[3] = bad

    chosen = nearest_code(latents.to(device), codebook.to(device)).cpu()

    assert 0 <= chosen[3] < 301
    assert torch.equal(chosen[4:], clean[4:])


@pytest.mark.parametrize("search", [nearest_code, nearest_code_reference])
def test_autocast_and_lower_matmul_precision_change_no_code(search):
    latents, codebook = torch.randn(300, 64), torch.randn(1000, 64)
    plain = search(latents, codebook)
    before = torch.get_float32_matmul_precision()

    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            chosen = search(latents, codebook)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)

    assert torch.equal(chosen, plain)


def test_latents_that_want_a_gradient_give_codes_without_one():
    chosen = nearest_code(torch.randn(4, 3, requires_grad=True), torch.randn(5, 3))

    assert not chosen.requires_grad


@pytest.mark.parametrize(
    ("latents", "codebook", "said"),
    [
        (torch.ones(3), torch.ones(4, 3), r"got \[3\] and \[4, 3\]"),
        (torch.ones(2, 2, 3), torch.ones(4, 3), "latents \\[N, D\\]"),
        (torch.ones(2, 3), torch.ones(4, 2), "the same D"),
        (torch.ones(2, 3), torch.ones(1, 4, 3), "codebook \\[K, D\\]"),
        (torch.ones(2, 3), torch.ones(0, 3), "at least 1 long"),
        (torch.ones(2, 0), torch.ones(4, 0), "at least 1 long"),
        (torch.ones(2, 3).long(), torch.ones(4, 3), "torch.int64 and torch.float32"),
        (torch.ones(2, 3), torch.ones(4, 3, device="meta"), "on meta"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_what_came(latents, codebook, said):
    with pytest.raises(ShapeError, match=said):
        nearest_code(latents, codebook)


def test_the_reference_never_holds_more_than_64_mb_of_scores():
    rows = [len(block) for block in row_blocks(torch.empty(50_000, 1), bytes_a_row=4 * 4096)]

    assert sum(rows) == 50_000
    assert max(rows) * 4 * 4096 <= MAX_BLOCK_BYTES == 64 * 2**20


PEAK = """
import resource, torch
from vqtok.ops import nearest_code
from vqtok.ops.nearest import nearest_code_reference
from vqtok.ops.nearest_cpu import nearest_in_tiles
search = {search}
latents, codebook = torch.randn(100_000, 4), torch.randn(4096, 4)
search(latents[:64], codebook)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
codes = search(latents, codebook)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(codes), (after - before) // 1024)
"""


@pytest.mark.parametrize("search", ["nearest_code", "nearest_in_tiles", "nearest_code_reference"])
def test_a_search_whose_scores_take_1600_mb_grows_the_process_by_less_than_100(search):
    # ru_maxrss is in kilobytes on Linux, in bytes on macOS: there the bound is the stricter one
    program = PEAK.format(search=search)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )

    count, grown_mb = map(int, done.stdout.split())

    assert count == 100_000
    assert grown_mb < 100


@pytest.mark.parametrize(
    ("n", "k", "d", "dtype"),
    [
        (33, 70, 8, torch.float32),
        (40, 300, 40, torch.bfloat16),
        (0, 5, 3, torch.float64),
    ],
)
def test_the_op_passes_opcheck(n, k, d, dtype):
    latents = torch.randn(n, d, dtype=dtype, requires_grad=True)

    results = torch.library.opcheck(nearest_code_op, (latents, torch.randn(k, d, dtype=dtype)))

    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_as_one_graph(dynamic):
    def shifted(latents, codebook):
        return nearest_code(latents * 2, codebook) + 1

    compiled = torch.compile(shifted, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    codebook = torch.randn(300, 40)

    for n in (33, 70):
        latents = torch.randn(n, 40, requires_grad=True)
        assert torch.equal(compiled(latents, codebook), shifted(latents, codebook))
