"""Pixels to patch tokens and back, starting as an orthonormal cosine transform.

A patch of p x p x 3 pixels is 3 p^2 numbers; the cosine basis (Ahmed, Natarajan, Rao 1974) over
luma and two colour differences packs most of a photo's energy into the first few. A tokenizer
that starts there starts as k-means on patches, and learns context from the first step.

Shapes: B batch, H W pixels, h w grid, p pixels of a patch side, D width.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

# orthonormal luma and colour differences, and how much less a photo varies along each
COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
COLOUR_SCALE = (1.0, 4.0, 8.0)


def cosine_basis(patch_pixels: int) -> Tensor:
    """[3 p^2, 3, p, p] float32: orthonormal rows, in the order of falling energy in photos."""
    p = patch_pixels
    grid = torch.arange(p, dtype=torch.float64)
    waves = torch.cos(math.pi / p * (grid + 0.5) * grid[:, None])  # [frequency, pixel]
    waves = waves / waves.norm(dim=1, keepdim=True)
    colours = torch.tensor(COLOURS, dtype=torch.float64)
    colours = colours / colours.norm(dim=1, keepdim=True)
    basis = torch.einsum("ck,uy,vx->cuvkyx", colours, waves, waves).flatten(0, 2)
    frequency = (grid[:, None] ** 2 + grid**2).sqrt()  # photos fall like 1 / frequency
    order = [(scale * (frequency + 0.5)).flatten() for scale in COLOUR_SCALE]
    return basis[torch.cat(order).argsort(stable=True)].float()


class PatchEmbedding(nn.Module):
    """[B, 3, H, W] pixels to [B, h, w, D] tokens; H and W are multiples of the patch side."""

    def __init__(self, patch_pixels: int, width: int):
        super().__init__()
        self.patch_pixels = patch_pixels
        self.proj = nn.Linear(3 * patch_pixels**2, width)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The first D waves of the cosine basis, smallest frequencies first."""
        basis = cosine_basis(self.patch_pixels).flatten(1)[: self.proj.out_features]
        self.proj.weight.zero_()[: len(basis)] = basis.to(self.proj.weight)
        self.proj.bias.zero_()

    def forward(self, pixels: Tensor) -> Tensor:
        p = self.patch_pixels
        return self.proj(rearrange(pixels, "b c (h p) (w q) -> b h w (c p q)", p=p, q=p))


class PatchToPixels(nn.Module):
    """[B, h, w, D] tokens to [B, 3, H, W] pixels; starts as the inverse of `PatchEmbedding`."""

    def __init__(self, patch_pixels: int, width: int):
        super().__init__()
        self.patch_pixels = patch_pixels
        self.proj = nn.Linear(width, 3 * patch_pixels**2)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Transpose of the cosine basis: orthonormal, so also its inverse."""
        basis = cosine_basis(self.patch_pixels).flatten(1)[: self.proj.in_features]
        self.proj.weight.zero_()[:, : len(basis)] = basis.T.to(self.proj.weight)
        self.proj.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        p = self.patch_pixels
        return rearrange(self.proj(tokens), "b h w (c p q) -> b c (h p) (w q)", p=p, q=p)
