"""What every quantizer promises: latents [..., D] to codes [..., Q] and back.

D latent width, Q codebooks per position, K codes in a codebook.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from vqtok.errors import CodeRangeError, ConfigError, ShapeError
from vqtok.quantizers.precision import Float32Module


@dataclass
class QuantizerOutput:
    """What a quantizer's `forward` returns.

    Attributes:
        quantized: [..., D], dtype of the latents; carries the gradient to the latents.
        codes: [..., Q] int64 in [0, K).
        loss: scalar float32, the weighted sum of `losses`.
        losses: unweighted terms by name, for logging ("commitment", "codebook").
    """

    quantized: Tensor
    codes: Tensor
    loss: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


class Quantizer(Float32Module):
    """Base of all quantizers. A subclass writes `encode`, `decode` and `forward`.

    Attributes:
        dim: D, width of the latents.
        codebook_sizes: K of each of the Q codebooks.
    """

    def __init__(self, dim: int, codebook_sizes: tuple[int, ...]):
        super().__init__()
        if not codebook_sizes:
            raise ConfigError("a quantizer wants at least one codebook; got codebook_sizes=().")
        self.dim = whole_number("dim", dim, 1)
        self.codebook_sizes = tuple(whole_number("codebook_size", k, 2) for k in codebook_sizes)

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def codebook_size(self) -> int:
        return max(self.codebook_sizes)

    @property
    def code_bits(self) -> tuple[float, ...]:
        """Bits of a code of each codebook, all codes that a place can have equally likely."""
        return tuple(math.log2(size) for size in self.codebook_sizes)

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """[..., D] float to [..., Q] int64; `num_codebooks` keeps the first levels only."""
        raise NotImplementedError(f"{type(self).__name__} must define encode.")

    def decode(self, codes: Tensor) -> Tensor:
        """[..., Q] int64 to [..., D] float32; accepts the first q <= Q levels."""
        raise NotImplementedError(f"{type(self).__name__} must define decode.")

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize with gradients; `mask` [...] bool is True where a position counts."""
        raise NotImplementedError(f"{type(self).__name__} must define forward.")

    # Upkeep of learned codebooks: nothing to do unless a subclass has some.

    def initialize(self, latents: Tensor, mask: Tensor | None = None) -> None:
        """Start the codes on real latents (k-means); the first training `forward` calls it."""

    def fit(self, latents: Tensor, rounds: int = 4) -> None:
        """Learn the codes from all the latents [..., D] at once, without a gradient."""

    def upkeep(self) -> None:
        """Apply the statistics gathered since the last call (EMA, revival)."""

    def set_deferred_upkeep(self, deferred: bool) -> None:
        """True: `forward` only gathers statistics and the trainer calls `upkeep` once a step."""

    def freeze(self) -> None:
        """No code changes any more, by gradient or by upkeep; survives save and load."""

    # Checks shared by all kinds.

    def check_latents(self, latents: Tensor) -> None:
        if latents.ndim < 1 or latents.shape[-1] != self.dim or not latents.is_floating_point():
            raise ShapeError(
                f"{type(self).__name__} wants float latents [..., {self.dim}]; "
                f"got {list(latents.shape)} {latents.dtype}."
            )

    def check_mask(self, latents: Tensor, mask: Tensor | None) -> None:
        if mask is not None and (mask.shape != latents.shape[:-1] or mask.dtype != torch.bool):
            raise ShapeError(
                f"the mask of latents {list(latents.shape)} must be bool "
                f"{list(latents.shape[:-1])}, True where a position counts; "
                f"got {list(mask.shape)} {mask.dtype}."
            )

    def check_codes(self, codes: Tensor) -> None:
        """Shape and dtype always; the range only where looking does not stall a device."""
        if codes.ndim < 1 or not 1 <= codes.shape[-1] <= self.num_codebooks:
            raise ShapeError(
                f"{type(self).__name__} wants codes [..., q] with 1 <= q <= "
                f"{self.num_codebooks} codebooks on the last axis; got {list(codes.shape)}."
            )
        check_code_values(codes, self.codebook_sizes)

    def active_codebooks(self, num_codebooks: int | None) -> int:
        """How many codebooks a call uses; refuses a number that the quantizer does not have."""
        return first_codebooks(num_codebooks, self.num_codebooks)


def check_code_values(codes: Tensor, codebook_sizes: Sequence[int]) -> None:
    """The dtype of codes [..., q] always; the range only where looking does not stall a device.

    Raises:
        ShapeError: codes that are not int64.
        CodeRangeError: a code that its codebook does not have (looked at on the CPU only).
    """
    if codes.dtype != torch.int64:
        raise ShapeError(f"codes must be int64; got {codes.dtype}: call .long() first.")
    if codes.device.type != "cpu" or not codes.numel():
        return
    low, high = codes.flatten(0, -2).amin(0), codes.flatten(0, -2).amax(0)
    for level, size in enumerate(codebook_sizes[: codes.shape[-1]]):
        if low[level] < 0 or high[level] >= size:
            raise CodeRangeError(
                f"codebook {level} holds codes 0 to {size - 1}, but codes from "
                f"{low[level].item()} to {high[level].item()} came. "
                "Were they made by another tokenizer, or shifted into a shared vocabulary?"
            )


def first_codebooks(num_codebooks: int | None, available: int) -> int:
    """How many codebooks a call uses; refuses a number that is not there."""
    if num_codebooks is None:
        return available
    whole = isinstance(num_codebooks, Integral) and not isinstance(num_codebooks, bool)
    if not whole or not 1 <= num_codebooks <= available:
        raise ConfigError(f"num_codebooks must be 1 to {available} here; got {num_codebooks!r}.")
    return int(num_codebooks)


def whole_number(name: str, value: Any, least: int) -> int:
    """An argument that must be an int of at least `least`; a config file may hold anything."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number, {least} or more; got {value!r}.")
    return int(value)


def is_number(value: Any) -> bool:
    """Whether an argument can be compared with a range at all."""
    return isinstance(value, Real) and not isinstance(value, bool)
