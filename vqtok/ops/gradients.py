"""Gradients past a quantizer: what the encoder feels where rounding has no derivative."""

import torch
from torch import Tensor

from vqtok.errors import ShapeError


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized`, with the gradient of the identity to `latents`.

    Args:
        latents: [..., D] float.
        quantized: same shape; no gradient flows to it.

    Returns:
        `quantized` in the dtype of the latents, exactly.

    Raises:
        ShapeError: the shapes differ.

    Source: Bengio et al. 2013, arXiv 1308.3432.
    """
    _check(latents, quantized)
    # x - x is exactly 0, where x + (q - x) would round
    return quantized.detach().to(latents.dtype) + (latents - latents.detach())


def rotation_trick(latents: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized`, with the gradient of the rotation that takes each latent to it.

    For latent e and code q the gradient to e is s R^T g, where R is the rotation in the plane of
    e and q with R e/|e| = q/|q|, and s = |q|/|e|: angles between gradient and code become angles
    between gradient and latent. Where e or q is zero there is no such rotation, and the gradient
    passes straight through.

    Args:
        latents: [..., D] float; float32 inside (float64 stays float64).
        quantized: same shape; no gradient flows to it.

    Returns:
        `quantized` in the dtype of the latents, exactly.

    Raises:
        ShapeError: the shapes differ.

    Source: Fifty et al. 2024, arXiv 2410.06424, section 4.2.
    """
    _check(latents, quantized)
    dtype = torch.float64 if latents.dtype == torch.float64 else torch.float32
    wide, q = latents.to(dtype), quantized.detach().to(dtype)
    e = wide.detach()
    e_norm, q_norm = e.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)  # [..., 1]
    turns = (e_norm > 0) & (q_norm > 0)
    e_norm, q_norm = e_norm.where(turns, 1.0), q_norm.where(turns, 1.0)
    u, v = e / e_norm, q / q_norm
    w = torch.nn.functional.normalize(u + v, dim=-1)
    # R x = x - 2 w (w.x) + 2 v (u.x); products summed by hand, which autocast leaves alone
    rotated = wide - 2 * w * (w * wide).sum(-1, keepdim=True)
    rotated = rotated + 2 * v * (u * wide).sum(-1, keepdim=True)
    return straight_through(torch.where(turns, rotated * (q_norm / e_norm), wide), q).to(
        latents.dtype
    )


def _check(latents: Tensor, quantized: Tensor) -> None:
    if latents.shape != quantized.shape:
        raise ShapeError(
            "latents and quantized must have the same shape; "
            f"got {list(latents.shape)} and {list(quantized.shape)}."
        )
