"""The CPU kernel: its ways of searching agree, its choice of a way, faiss's settings."""

import importlib
import subprocess
import sys
import threading

import pytest
import torch

from vqtok.ops import nearest_code, nearest_cpu
from vqtok.ops.nearest import MAX_BLOCK_BYTES, nearest_code_op, nearest_code_reference
from vqtok.ops.nearest_cpu import (
    load_faiss,
    nearest_in_tiles,
    nearest_with_faiss,
    tile_columns,
    why_not,
)

needs_faiss = pytest.mark.skipif(load_faiss() is None, reason="faiss is not installed")
WAYS = [nearest_in_tiles, pytest.param(nearest_with_faiss, marks=needs_faiss)]


@pytest.fixture
def without_faiss(monkeypatch):
    """A machine on which `import faiss` fails."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    load_faiss.cache_clear()
    yield
    load_faiss.cache_clear()


@pytest.mark.parametrize("search", WAYS)
@pytest.mark.parametrize(
    ("n", "k", "d"),
    [(1, 1, 1), (2, 3, 2), (700, 1, 3), (513, 257, 8), (1025, 1000, 17), (70, 4099, 40)],
)
def test_every_way_gives_the_codes_of_the_reference(n, k, d, search, regret):
    latents, codebook = torch.randn(n, d), torch.randn(k, d)

    chosen = search(latents, codebook)

    assert regret(latents, codebook, chosen) <= 1e-6
    assert (chosen == nearest_code_reference(latents, codebook)).float().mean() > 0.99


@pytest.mark.parametrize("k", [2, 31, 33, 100, 1000])
def test_groups_cover_the_codes_and_fillers_are_never_chosen(k):
    codebook = torch.arange(k, dtype=torch.float32)[:, None]

    chosen = nearest_in_tiles(torch.tensor([[1e6], [-1e6], [k - 1.0], [float("nan")]]), codebook)

    assert chosen[:3].tolist() == [k - 1, 0, k - 1]
    assert 0 <= chosen[3] < k


@pytest.mark.parametrize("k", [1, 300, 4096, 10**6, 10**8])
def test_a_tile_holds_at_least_one_column_and_at_most_64_mb(k):
    columns = tile_columns(k)

    assert columns >= 1
    assert columns == 1 or columns * k * 4 <= MAX_BLOCK_BYTES


@pytest.mark.parametrize(
    ("n", "k", "d", "way"),
    [
        (1, 4, 8, "nearest_with_faiss"),
        (500, 1024, 31, "nearest_with_faiss"),
        (0, 1024, 8, "nearest_code_reference"),
        (500, 1024, 32, "nearest_in_tiles"),
        (31, 1024, 64, "nearest_code_reference"),
        (500, 255, 64, "nearest_code_reference"),
    ],
)
@needs_faiss
def test_shapes_choose_the_way(n, k, d, way, monkeypatch):
    taken = []
    for name in ("nearest_with_faiss", "nearest_in_tiles", "nearest_code_reference"):
        whole = getattr(nearest_cpu, name)
        monkeypatch.setattr(
            nearest_cpu,
            name,
            lambda *a, _name=name, _whole=whole, **k: (taken.append(_name), _whole(*a, **k))[1],
        )

    nearest_code(torch.randn(n, d), torch.randn(k, d))

    assert taken == [way]


@pytest.mark.usefixtures("without_faiss")
def test_without_faiss_narrow_vectors_are_searched_in_tiles(regret):
    latents, codebook = torch.randn(300, 8), torch.randn(700, 8)

    chosen = nearest_code(latents, codebook)

    assert load_faiss() is None
    assert regret(latents, codebook, chosen) <= 1e-6


def test_faiss_is_left_alone_on_macos(monkeypatch):
    load_faiss.cache_clear()
    monkeypatch.setattr(nearest_cpu.sys, "platform", "darwin")
    try:
        assert load_faiss() is None
    finally:
        monkeypatch.undo()
        load_faiss.cache_clear()


def test_importing_the_ops_does_not_import_faiss():
    program = "import sys, vqtok.ops; sys.exit('faiss' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)

    assert done.returncode == 0


@needs_faiss
def test_faiss_runs_on_torch_threads_and_gets_its_settings_back(monkeypatch):
    faiss, seen = importlib.import_module("faiss"), []
    search = faiss.knn
    monkeypatch.setattr(
        faiss, "knn", lambda *a: (seen.append(faiss.omp_get_max_threads()), search(*a))[1]
    )
    before = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    faiss.omp_set_num_threads(3)
    try:
        nearest_code(torch.randn(50, 8), torch.randn(40, 8))

        assert seen == [torch.get_num_threads()]
        assert faiss.omp_get_max_threads() == 3
        assert faiss.cvar.distance_compute_blas_threshold == before[1]
    finally:
        faiss.omp_set_num_threads(before[0])


def test_threads_that_search_at_once_get_their_own_answers():
    codebooks = [torch.randn(300, width) for width in (8, 40, 8, 40)]
    wanted = [nearest_code(book, book) for book in codebooks]
    got = [None] * 4

    def work(i):
        got[i] = [nearest_code(codebooks[i], codebooks[i]) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(torch.equal(codes, wanted[i]) for i in range(4) for codes in got[i])


def test_the_kernel_can_be_switched_off_and_the_reference_agrees(regret):
    latents, codebook = torch.randn(300, 40), torch.randn(700, 40)

    with nearest_code_op.set_kernel_enabled("cpu", enabled=False):
        plain = nearest_code(latents, codebook)

    assert regret(latents, codebook, plain) <= 1e-6


def test_why_not_names_float64_and_nothing_else():
    narrow, wide = torch.randn(3, 4), torch.randn(5, 4, dtype=torch.float64)

    assert why_not(narrow, narrow.bfloat16()) == []
    assert len(why_not(narrow, wide)) == len(why_not(wide, narrow)) == 1
    assert "float64" in why_not(wide, wide)[0]
