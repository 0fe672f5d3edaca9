"""Finite scalar quantization: every latent channel is rounded to one of a few fixed levels.

Source: Mentzer et al. 2023, arXiv 2309.15505, section 3 and appendix A.1. No code is learned, so
none can die. Codes are numbered as in vector-quantize-pytorch: the first channel varies fastest.
Shapes: latents [..., D], codes [..., 1]. C channels, one per level count.

Encoding what `decode` gave may choose another code: tanh bends the grid, and codes are its image.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vqtok.errors import ConfigError
from vqtok.ops.gradients import straight_through
from vqtok.quantizers.base import Quantizer, QuantizerOutput, whole_number
from vqtok.quantizers.precision import float32_linear, float32_math

# the outermost levels lie this far inside the range of tanh, or they would never be reached
MARGIN = 1e-3


class FiniteScalarQuantizer(Quantizer):
    """A fixed grid with `levels[c]` values from about -1 to 1 in channel c.

    Args:
        levels: number of values per channel, at least 3 each; their product is K.
        dim: D, width of the latents; a linear map in and out if it is not the number of channels.
        codebook_size: K, if the caller wants it checked.
    """

    def __init__(
        self, levels: Sequence[int], dim: int | None = None, codebook_size: int | None = None
    ):
        counts = _checked(levels)
        size = math.prod(counts)
        if size >= 2**31:
            raise ConfigError(f"fsq levels {list(counts)} make {size} codes; the limit is 2**31.")
        if codebook_size is not None and whole_number("codebook_size", codebook_size, 2) != size:
            raise ConfigError(
                f"fsq levels {list(counts)} make {size} codes, not codebook_size={codebook_size}: "
                "leave codebook_size out or change the levels."
            )
        channels = len(counts)
        super().__init__(channels if dim is None else dim, (size,))
        self.level_counts = counts
        self.strides = tuple(math.prod(counts[:channel]) for channel in range(channels))
        mapped = self.dim != channels
        self.project_in = float32_linear(self.dim, channels) if mapped else nn.Identity()
        self.project_out = float32_linear(channels, self.dim) if mapped else nn.Identity()
        # never read: a model whose only state were a bare FSQ could not be saved
        self.register_buffer("levels", torch.tensor(counts, dtype=torch.int64))

    def initial_state(self) -> dict[str, Tensor]:
        """What the buffers hold, on the CPU: a model built on the meta device lost it."""
        return {"levels": torch.tensor(self.level_counts, dtype=torch.int64, device="cpu")}

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """[..., D] float to [..., 1] int64 in [0, K)."""
        self.check_latents(latents)
        self.active_codebooks(num_codebooks)
        with float32_math(latents):
            return self._number(self._bounded(latents).round())

    def decode(self, codes: Tensor) -> Tensor:
        """[..., 1] int64 to [..., D] float32."""
        self.check_codes(codes)
        counts, strides = codes.new_tensor(self.level_counts), codes.new_tensor(self.strides)
        digits = codes // strides % counts  # [..., C]
        with float32_math(codes):
            return self.project_out((digits - counts // 2) / self._half_widths(codes))

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """[..., D] to quantized latents with gradient, codes [..., 1] and a loss of zero.

        Nothing is learned from the latents here, so `mask` is checked and changes nothing.
        """
        self.check_latents(latents)
        self.check_mask(latents, mask)
        with float32_math(latents):
            bounded = self._bounded(latents)
            rounded = straight_through(bounded, bounded.detach().round())
            quantized = self.project_out(rounded / self._half_widths(latents))
            codes = self._number(bounded.detach().round())
        loss = torch.zeros((), dtype=torch.float32, device=latents.device)
        return QuantizerOutput(quantized.to(latents.dtype), codes, loss)

    def _bounded(self, latents: Tensor) -> Tensor:
        """Latents [..., D] to [..., C] in a range whose integers are the levels."""
        channels = self.project_in(latents.float())
        ranges, offsets, shifts = [], [], []
        for count in self.level_counts:
            half_range = (count - 1) * (1 + MARGIN) / 2
            # an even number of levels has no middle one: half a step down
            offset = 0.5 if count % 2 == 0 else 0.0
            ranges.append(half_range)
            offsets.append(offset)
            shifts.append(math.atanh(offset / half_range))
        shifted = torch.tanh(channels + channels.new_tensor(shifts))
        return shifted * channels.new_tensor(ranges) - channels.new_tensor(offsets)

    def _number(self, rounded: Tensor) -> Tensor:
        """Whole numbers around zero [..., C] to codes [..., 1]."""
        digits = rounded.long()
        digits = digits + digits.new_tensor([count // 2 for count in self.level_counts])
        return (digits * digits.new_tensor(self.strides)).sum(-1, keepdim=True)

    def _half_widths(self, like: Tensor) -> Tensor:
        halves = [float(count // 2) for count in self.level_counts]
        return torch.tensor(halves, dtype=torch.float32, device=like.device)


def _checked(levels: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(levels, Sequence) or not levels:
        raise ConfigError(
            f"fsq wants `levels`, a list of counts such as [8, 5, 5, 5]; got {levels!r}."
        )
    counts = tuple(whole_number("every count of fsq `levels`", count, 2) for count in levels)
    if 2 in counts:
        # vector-quantize-pytorch refuses it for the same formula
        raise ConfigError(
            "fsq `levels` must be 3 or more each: two levels would part at -3.8, where hardly a "
            f"latent comes and tanh has no slope to learn by; got {list(counts)}. Use 3 or 4."
        )
    return counts
