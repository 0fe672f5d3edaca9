"""Residual quantization by direction: every level looks for its code in a few dimensions.

A level maps what the levels before it left over to d dimensions, takes the code that points in the
most similar direction, and maps this code back to D. The sum of the levels is the quantized latent.

Sources: Kumar et al. 2023 (DAC), arXiv 2306.06546, section 3.2; codes of few dimensions that are
compared on the unit sphere: Yu et al. 2021 (ViT-VQGAN), arXiv 2110.04627, section 3.2.
Shapes: latents [..., D], what a level compares [..., d], codes [..., Q]; the first q codes are a
coarser code of the same latents.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vqtok.quantizers.base import QuantizerOutput, whole_number
from vqtok.quantizers.codebook import Codebook
from vqtok.quantizers.learned import Begin, codebook_stack, valid_rows
from vqtok.quantizers.levels import LevelQuantizer
from vqtok.quantizers.precision import float32_linear, float32_math
from vqtok.quantizers.sync import sum_over_ranks

# of one level: what it compares [..., d], its codes [...], their vectors [..., d] and what these
# add to the latent [..., D]
Level = tuple[Tensor, Tensor, Tensor, Tensor]


class ResidualUnitQuantizer(LevelQuantizer):
    """Q codebooks of K directions in d dimensions, each between two linear maps of its own.

    Args:
        dim: D, width of the latents.
        codebook_size: K of every level.
        num_codebooks: Q.
        code_dim: d, 8 in DAC.
        learning: "gradient", as DAC: only the choice of a code looks at directions alone, while
            losses and `decode` see the codes with the lengths that they have learned; or "ema":
            all of it happens on the unit sphere.
        commitment_weight: weight of the commitment loss, the mean over the levels.
        gradient: "straight_through" or "rotation", around each level's choice.
        level_dropout: the share of samples that keep their first levels only; see
            `LevelQuantizer`.
        revive_below: a code is dead below this share of uniform use of its level.
        revive_by: "random" or "split".

    As in DAC the gradient passes through the residuals too: the loss of a level reaches the maps
    of the levels before it. The maps go on learning when the codebooks are frozen.

    State: `codebooks.q`, `project_in.q` (D to d) and `project_out.q` (d to D), with biases.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        num_codebooks: int,
        code_dim: int = 8,
        learning: str = "gradient",
        commitment_weight: float = 0.25,
        gradient: str = "straight_through",
        level_dropout: float = 0.0,
        revive_below: float = 0.1,
        revive_by: str = "random",
    ):
        super().__init__(
            dim, codebook_size, num_codebooks, commitment_weight, gradient, level_dropout
        )
        width = whole_number("code_dim", code_dim, 1)
        self.codebooks = codebook_stack(
            num_codebooks,
            codebook_size,
            width,
            learning=learning,
            unit_norm=True,
            revive_below=revive_below,
            revive_by=revive_by,
        )
        self.project_in = nn.ModuleList(float32_linear(dim, width) for _ in self.codebooks)
        self.project_out = nn.ModuleList(float32_linear(width, dim) for _ in self.codebooks)

    @torch.no_grad()
    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """[..., D] float to [..., q] int64 in [0, K), q = `num_codebooks` or all Q."""
        self.check_latents(latents)
        levels = self.active_codebooks(num_codebooks)
        with float32_math(latents):
            return torch.stack([codes for _, codes, _, _ in self._descend(latents, levels)], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """[..., q] int64, the first q <= Q levels, to [..., D] float32."""
        self.check_codes(codes)
        with float32_math(codes):
            added = [
                self.project_out[level](self.codebooks[level].live_codes()[column])
                for level, column in enumerate(codes.unbind(-1))
            ]
            return sum(added[1:], added[0])

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """[..., D] to quantized latents with gradient, codes [..., Q] and losses."""
        self.check_latents(latents)
        self.check_mask(latents, mask)
        self._start_if_needed(latents, mask)
        with float32_math(latents):
            levels = zip(*self._descend(latents, self.num_codebooks), strict=True)
            compared, codes, chosen, added = levels
            compared, chosen = torch.stack(compared, -2), torch.stack(chosen, -2)  # [..., Q, d]
            codes = torch.stack(codes, -1)
            kept = self._kept_levels(latents)
            counted = self._counted(mask, kept)
            loss, losses = self._level_losses(compared, chosen, mask, counted)
            if kept is not None:
                added = [part * kept[..., q, None] for q, part in enumerate(added)]
            quantized = sum(added[1:], added[0])
        self._gather(self.codebooks[0].prepare(compared), codes, counted)
        self._upkeep_if_due()
        return QuantizerOutput(quantized.to(latents.dtype), codes, loss, losses)

    def upkeep(self) -> None:
        for codebook in self.codebooks:
            with _with_length(codebook):
                codebook.upkeep()

    def _descend(self, latents: Tensor, levels: int) -> Iterator[Level]:
        """The first levels, one after the other, each on what the ones before it left over."""
        left_over = latents.float()
        for level in range(levels):
            compared, codes, chosen = self._look_up(level, left_over)
            added = self.project_out[level](self._pass_gradient(compared, chosen))
            left_over = left_over - added
            yield compared, codes, chosen, added

    def _look_up(self, level: int, left_over: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] to what the level compares [..., d], its codes [...] and their vectors."""
        codebook = self.codebooks[level]
        compared = self.project_in[level](left_over)
        directions = codebook.prepare(compared)
        if codebook.learning == "ema":
            compared = directions
        codes = codebook.nearest(directions)
        return compared, codes, codebook.live_codes()[codes]

    def _start(self, latents: Tensor, mask: Tensor | None, begin: Begin) -> None:
        left_over = valid_rows(latents.float(), mask)
        for level, codebook in enumerate(self.codebooks):
            compared = self.project_in[level](left_over)
            with _with_length(codebook, _mean_length(compared)):
                begin(codebook, compared)
            chosen = self._look_up(level, left_over)[2]
            left_over = left_over - self.project_out[level](chosen)

    def _refit(self, latents: Tensor, codes: Tensor) -> None:
        left_over = latents.flatten(0, -2)
        for level, (codebook, column) in enumerate(
            zip(self.codebooks, codes.flatten(0, -2).unbind(-1), strict=True)
        ):
            # level by level: the next one meets what this one leaves now
            directions = codebook.prepare(self.project_in[level](left_over))
            with _with_length(codebook):
                codebook.move(directions - codebook.lookup(column), column)
            left_over = left_over - self.project_out[level](codebook.live_codes()[column])


@contextmanager
def _with_length(codebook: Codebook, length: Tensor | None = None) -> Iterator[None]:
    """Codes that a codebook places inside the block, on the unit sphere, get a length.

    Where codes learn by gradient their length matters to the map out, and a new one would need
    thousands of steps to grow to that of the others: it gets their mean, or `length`.
    """
    before = codebook.codes.detach().clone()
    yield
    if codebook.learning == "ema":
        return
    with torch.no_grad():
        placed = (codebook.codes != before).any(-1, keepdim=True)
        length = before.norm(dim=-1).mean() if length is None else length
        codebook.codes.mul_(torch.where(placed, length, 1))


def _mean_length(vectors: Tensor) -> Tensor:
    """Of the vectors [N, d] of all ranks."""
    total = torch.stack([vectors.norm(dim=-1).sum(), vectors.new_tensor(vectors.shape[0])])
    sum_over_ranks([total])
    return total[0] / total[1].clamp(min=1)
