"""Residual quantization: each level encodes what the earlier levels left over.

Source: Zeghidour et al. 2021 (SoundStream), arXiv 2107.03312, algorithm 1.
Shapes: latents [..., D], codes [..., Q]; the first q codes are a coarser code of the same latents.
"""

import torch
from torch import Tensor

from vqtok.ops.beam import beam_codes
from vqtok.quantizers.base import QuantizerOutput
from vqtok.quantizers.learned import Begin, codebook_stack, valid_rows
from vqtok.quantizers.levels import LevelQuantizer
from vqtok.quantizers.precision import float32_math

REFIT_SWEEPS = 2  # over the levels, for one choice of codes


class ResidualQuantizer(LevelQuantizer):
    """Q codebooks of K codes, coarse to fine; what `decode` gives is the sum of their codes.

    Args:
        dim: D, width of the latents and of every codebook.
        codebook_size: K of every level.
        num_codebooks: Q.
        learning: "ema" or "gradient", see `Codebook`.
        decay: of the EMA statistics.
        commitment_weight: weight of the commitment loss, the mean over the levels.
        gradient: "straight_through" or "rotation", around the whole stack.
        revive_below: a code is dead below this share of uniform use of its level.
        revive_by: "random" or "split".
        level_dropout: in training, the share of samples that keep only their first levels, as
            many as a uniform draw from 1 to Q says. A sample is one entry of the first axis.

    Dropped levels add nothing to `quantized`, the losses and the statistics; `codes` are whole.

    Attributes:
        beam_size: how many partial codes `encode` keeps after each level; 1 is greedy, and may be
            changed at any time (`vqtok.ops.beam`). More lowers the error at all levels together,
            at the cost of that of the first levels alone. It is no matter of the codebooks, so it
            is not among their arguments: a model has a field for it in its config.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        num_codebooks: int,
        learning: str = "ema",
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        gradient: str = "straight_through",
        revive_below: float = 0.1,
        revive_by: str = "random",
        level_dropout: float = 0.0,
    ):
        super().__init__(
            dim, codebook_size, num_codebooks, commitment_weight, gradient, level_dropout
        )
        self.beam_size = 1
        self.codebooks = codebook_stack(
            num_codebooks,
            codebook_size,
            dim,
            learning=learning,
            decay=decay,
            revive_below=revive_below,
            revive_by=revive_by,
        )

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """[..., D] float to [..., q] int64 in [0, K), q = `num_codebooks` or all Q."""
        self.check_latents(latents)
        levels = self.active_codebooks(num_codebooks)
        # a beam looks ahead: the first codes depend on the levels after them
        searched = levels if self.beam_size == 1 else self.num_codebooks
        codes = self._search(latents.reshape(-1, self.dim), searched)[:, :levels]
        return codes.view(*latents.shape[:-1], levels)

    def decode(self, codes: Tensor) -> Tensor:
        """[..., q] int64, the first q <= Q levels, to [..., D] float32."""
        self.check_codes(codes)
        return self._lookup(codes).sum(-2)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """[..., D] to quantized latents with gradient, codes [..., Q] and losses."""
        self.check_latents(latents)
        self.check_mask(latents, mask)
        self._start_if_needed(latents, mask)
        codes = self.encode(latents)
        with float32_math(latents):
            vectors = latents.float()
            chosen = self._lookup(codes)  # [..., Q, D]
            # what each level meets; detached codes, so every level's loss reaches the latents
            earlier = chosen.detach().cumsum(-2) - chosen.detach()
            residuals = vectors[..., None, :] - earlier
            kept = self._kept_levels(latents)
            counted = self._counted(mask, kept)
            loss, losses = self._level_losses(residuals, chosen, mask, counted)
            if kept is not None:
                chosen = chosen * kept[..., None]
            quantized = self._pass_gradient(vectors, chosen.sum(-2))
        self._gather(residuals, codes, counted)
        self._upkeep_if_due()
        return QuantizerOutput(quantized.to(latents.dtype), codes, loss, losses)

    def _lookup(self, codes: Tensor) -> Tensor:
        """Codes [..., q] to the levels' vectors [..., q, D]."""
        levels = zip(self.codebooks, codes.unbind(-1), strict=False)  # codes may be fewer
        return torch.stack([codebook.lookup(level) for codebook, level in levels], -2)

    @torch.no_grad()
    def _search(self, rows: Tensor, levels: int) -> Tensor:
        """Rows [N, D] to codes [N, levels] of the first levels."""
        with float32_math(rows):
            tables = torch.stack([codebook.table() for codebook in self.codebooks[:levels]])
            return beam_codes(rows.float(), tables, self.beam_size)

    def _start_fit(self, latents: Tensor) -> None:
        """k-means level by level, each on what the levels before it leave after a refit."""
        rows = errors = latents.flatten(0, -2)
        for level, codebook in enumerate(self.codebooks, 1):
            codebook.initialize_thoroughly(errors)
            errors = self._refit(rows, self._search(rows, level))

    def _refit(self, latents: Tensor, codes: Tensor) -> Tensor:
        """Also returns the errors [N, D] that are left; codes may be of the first levels only."""
        errors = (latents - self._lookup(codes).sum(-2)).flatten(0, -2)
        columns = codes.flatten(0, -2).unbind(-1)
        for _ in range(REFIT_SWEEPS):
            for codebook, column in zip(self.codebooks, columns, strict=False):
                # one level at a time: the next one sees what this one has gained
                errors -= codebook.move(errors, column)[column]
        return errors

    def _start(self, latents: Tensor, mask: Tensor | None, begin: Begin) -> None:
        rows = valid_rows(latents.float(), mask)
        for codebook in self.codebooks:
            begin(codebook, rows)
            rows = rows - codebook.lookup(codebook.nearest(rows))
