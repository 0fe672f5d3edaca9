"""Vectors from callers' hands: tensors, arrays or lists of numbers, looked at before use.

[1.0, 2.0], array, tensor ──read_vector──▶ float32 [D]
[N, D] array or tensor, list of vectors ──read_vectors──▶ float32 [N, D]
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtok.errors import InputError


def read_vector(item: Any, width: int, name: str = "the vector") -> Tensor:
    """One vector as float32 [D] on the CPU.

    Args:
        item: a tensor, an array or a sequence of numbers with one axis; any real dtype.
        width: D.
        name: what to call it in an error.

    Raises:
        InputError: not numbers, another width ("decode_error"), no numbers at all ("empty"), or
            NaN and infinities in float32 ("nonfinite").
    """
    vector = _tensor(item, name)
    if vector.numel() == 0:
        raise InputError(f"{name} is empty; {width} numbers are wanted.", "empty")
    if vector.shape != (width,):
        raise InputError(f"{name} must have {width} numbers; its shape is {list(vector.shape)}.")
    if not vector.isfinite().all():
        raise InputError(
            f"{name} has a NaN, an infinity or a number beyond float32: leave it out.", "nonfinite"
        )
    return vector


def read_vectors(vectors: Any, width: int) -> Tensor:
    """Many vectors as float32 [N, D] on the CPU; errors name the row.

    Args:
        vectors: a tensor or an array [N, D], or a sequence of what `read_vector` takes; N >= 1.
        width: D.
    """
    if isinstance(vectors, (list, tuple)):
        rows = [read_vector(row, width, f"vector {index}") for index, row in enumerate(vectors)]
        if rows:
            return torch.stack(rows)
    matrix = _tensor(vectors, "the argument")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(
            f"one or more vectors [N, {width}] are wanted; got the shape {list(matrix.shape)}.",
            "decode_error" if matrix.numel() else "empty",
        )
    if matrix.shape[1] != width:
        raise InputError(f"vectors must have {width} numbers each; got {list(matrix.shape)}.")
    bad = (~matrix.isfinite().all(1)).nonzero()[:8, 0].tolist()
    if bad:
        raise InputError(
            f"vectors {bad} have a NaN, an infinity or a number beyond float32: leave them out.",
            "nonfinite",
        )
    return matrix


def _tensor(item: Any, name: str) -> Tensor:
    if not isinstance(item, (Tensor, np.ndarray, Sequence)) or isinstance(item, (str, bytes)):
        raise InputError(
            f"{name} must be a tensor, an array or a list of numbers; got a {type(item).__name__}."
        )
    try:
        tensor = item if isinstance(item, Tensor) else torch.from_numpy(np.asarray(item))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} does not consist of numbers: {error}") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"{name} must consist of real numbers; got {tensor.dtype}.")
    return tensor.detach().to("cpu", torch.float32)
