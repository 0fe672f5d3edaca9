"""Nearest code on CPUs: faiss for narrow vectors where it is installed, tiled products otherwise.

Measured at N=16,384, K=4,096 with one thread of an AMD EPYC (Zen 4, AVX-512) in GFLOP/s of
processor time (2 N K D over time; torch 2.11, faiss 1.15); "whole" is the reference, which writes
64 MB of scores at a time:

    D        8    16    24    32    64   256
    faiss   83    82    81    59    72    96
    tiles   32    51    61    68    81    91
    whole    5    11    15    19    33    64

Two free cores gave faiss 167 (D=8), 117 (32), 147 (64) and 195 (256). At 16 to 256 rows, D=8,
K=16,384, faiss takes 0.3 to 1.0 ms, tiles 1.1 to 2.0, whole 0.7 to 8.2.
Measure again: benchmarks/nearest_code.py.
"""

import functools
import importlib
import math
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from vqtok.devices import autocast_off, exact_numerics
from vqtok.ops.dispatch import fall_back
from vqtok.ops.nearest import (
    MAX_BLOCK_BYTES,
    move_origin,
    nearest_code_op,
    nearest_code_reference,
    row_blocks,
    working_dtype,
)
from vqtok.ops.residual import residual_codes_op, residual_codes_reference, stage_by_stage

TILE = 2**20  # scores in a tile: 4 MB stay in the cache
MAX_TILE_COLUMNS = 512
FEW_ROWS = 32  # fewer rows, or fewer codes, are not worth the steps of a tile
FEW_CODES = 256
FAISS_MAX_WIDTH = 31  # above, the tiles are as fast

_faiss_settings = threading.Lock()


def why_not(latents: Tensor, codebook: Tensor) -> list[str]:
    """Reasons this kernel refuses; empty means it runs."""
    if working_dtype(latents, codebook) == torch.float64:
        return ["arithmetic in float64 was asked for, the kernel has float32 only"]
    return []


@nearest_code_op.register_kernel("cpu")
def _(latents: Tensor, codebook: Tensor) -> Tensor:
    if reasons := why_not(latents, codebook):
        name = "nearest_code on cpu"
        return fall_back(name, reasons, nearest_code_reference, latents, codebook)
    return fastest(latents, codebook)


@residual_codes_op.register_kernel("cpu")
def _(latents: Tensor, codebooks: Tensor) -> Tensor:
    if reasons := why_not(latents, codebooks):
        name = "residual_codes on cpu"
        return fall_back(name, reasons, residual_codes_reference, latents, codebooks)
    return stage_by_stage(latents, codebooks, fastest)


def fastest(latents: Tensor, codebook: Tensor) -> Tensor:
    """The way that is fastest for these shapes on this machine; all of them give the same."""
    rows, (num_codes, width) = latents.shape[0], codebook.shape
    if rows and width <= FAISS_MAX_WIDTH and load_faiss() is not None:
        return nearest_with_faiss(latents, codebook)
    if rows < FEW_ROWS or num_codes < FEW_CODES:
        return nearest_code_reference(latents, codebook, block_bytes=4 * TILE)
    return nearest_in_tiles(latents, codebook)


def nearest_in_tiles(latents: Tensor, codebook: Tensor) -> Tensor:
    """One matrix product per tile of [K, n] scores, then the winner in three cheap steps.

    An argmin with its index runs on one element at a time, a plain minimum on whole vectors: so
    take the minimum of each group of codes, the best group, and the best code of that group.
    """
    center, codes = move_origin(codebook.float())
    groups, size = _groups(codes.shape[0])
    # copies of the last code fill the last group; they can only tie with it, and the clamp
    # below turns them into it
    fill = codes[-1:].expand(groups * size - codes.shape[0], -1)
    codes = torch.cat([codes, fill]) if len(fill) else codes
    bias = codes.square().sum(1, keepdim=True)
    columns = tile_columns(codes.shape[0])
    scratch = codes.new_empty(codes.shape[0] * min(columns, latents.shape[0]))
    chosen = torch.empty(latents.shape[0], dtype=torch.int64)
    with exact_numerics(), autocast_off("cpu"):
        for start in range(0, latents.shape[0], columns):
            block = latents[start : start + columns].float() - center
            n = block.shape[0]
            scores = scratch[: codes.shape[0] * n].view(codes.shape[0], n)
            torch.addmm(bias, codes, block.T, alpha=-2, out=scores)
            scores = scores.view(groups, size, n)
            group = scores.amin(1).argmin(0)  # [n]
            within = scores[group, :, torch.arange(n)].argmin(1)
            chosen[start : start + n] = group * size + within
    return chosen.clamp_(max=codebook.shape[0] - 1)


def tile_columns(num_codes: int) -> int:
    """Latents in a tile: what the cache holds, and never more than MAX_BLOCK_BYTES of scores."""
    columns = max(32, min(MAX_TILE_COLUMNS, TILE // num_codes))
    return max(1, min(columns, MAX_BLOCK_BYTES // (4 * num_codes)))


def _groups(num_codes: int) -> tuple[int, int]:
    """About sqrt(K) groups of sqrt(K) codes: (number of groups, a power of two as their size)."""
    size = 2 ** round(math.log2(num_codes) / 2)
    return -(-num_codes // size), size


def nearest_with_faiss(latents: Tensor, codebook: Tensor) -> Tensor:
    """faiss's exact search, which fuses product and minimum for narrow vectors; N >= 1."""
    faiss = load_faiss()
    center, codes = move_origin(codebook.float())
    rows = codes.contiguous().numpy()
    found = []
    with _settings_of(faiss):
        for block in row_blocks(latents, 4 * codes.shape[1]):
            queries = (block.float() - center).contiguous().numpy()
            found.append(torch.from_numpy(faiss.knn(queries, rows, 1)[1][:, 0]))
    chosen = torch.cat(found)
    lost = chosen < 0  # faiss finds nothing for a row with a NaN
    if lost.any():
        chosen[lost] = nearest_code_reference(latents[lost], codebook)
    return chosen


@contextmanager
def _settings_of(faiss: ModuleType) -> Iterator[None]:
    """torch's number of threads, and the fused search at any number of rows.

    faiss 1.15 fuses only for latents of more than 128,000 numbers in all; measured at D=8,
    K=4,096, fusing is 7 times as fast at 16 rows and 18 times at 4,096. Both settings are global
    to the process, hence the lock.
    """
    with _faiss_settings:
        before = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
        faiss.omp_set_num_threads(torch.get_num_threads())
        faiss.cvar.distance_compute_blas_threshold = 1
        try:
            yield
        finally:
            faiss.omp_set_num_threads(before[0])
            faiss.cvar.distance_compute_blas_threshold = before[1]


@functools.cache
def load_faiss() -> ModuleType | None:
    """faiss if it is installed and can live beside torch, else None."""
    if sys.platform == "darwin":
        return None  # both bring an OpenMP runtime there, and the second one aborts the process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # SWIG's, on Python 3.12 and later
        try:
            return importlib.import_module("faiss")
        except ImportError:
            return None
