"""What quantizers whose codes go from coarse to fine share: dropped levels, losses, statistics.

Source of level dropout: Zeghidour et al. 2021 (SoundStream), arXiv 2107.03312, section III-C; here
per sample as in DAC, arXiv 2306.06546, section 3.3.
Shapes: latents [..., D], codes [..., Q], what a level compares [..., Q, d].
"""

import torch
from torch import Tensor

from vqtok.errors import ConfigError
from vqtok.quantizers.base import is_number, whole_number
from vqtok.quantizers.learned import LearnedQuantizer, valid_rows


class LevelQuantizer(LearnedQuantizer):
    """Q levels of K codes, each for what the levels before it left over.

    Args:
        dim: D, width of the latents.
        codebook_size: K of every level.
        num_codebooks: Q.
        commitment_weight: weight of the commitment loss, the mean over the levels.
        gradient: "straight_through" or "rotation".
        level_dropout: in training, the share of samples that keep only their first levels, as
            many as a uniform draw from 1 to Q says. A sample is one entry of the first axis.

    A subclass puts one codebook per level into `codebooks`. Dropped levels add nothing to
    `quantized`, the losses and the statistics; `codes` are whole.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        num_codebooks: int,
        commitment_weight: float,
        gradient: str,
        level_dropout: float,
    ):
        sizes = (codebook_size,) * whole_number("num_codebooks", num_codebooks, 1)
        super().__init__(dim, sizes, commitment_weight, gradient)
        if not is_number(level_dropout) or not 0 <= level_dropout <= 1:
            raise ConfigError(
                f"level_dropout is a share of samples, 0 to 1; got {level_dropout!r}."
            )
        self.level_dropout = level_dropout

    def _kept_levels(self, latents: Tensor) -> Tensor | None:
        """bool [..., Q], True where a sample keeps a level; None where all do."""
        if not self.training or self.level_dropout == 0:
            return None
        samples = latents.shape[0] if latents.ndim > 1 else 1
        device, levels = latents.device, self.num_codebooks
        drops = torch.rand(samples, device=device) < self.level_dropout
        number = torch.randint(1, levels + 1, (samples,), device=device)
        number = torch.where(drops, number, levels)
        kept = torch.arange(levels, device=device) < number[:, None]  # [samples, Q]
        if latents.ndim == 1:
            return kept[0]
        return kept.view(samples, *[1] * (latents.ndim - 2), levels).expand(
            *latents.shape[:-1], levels
        )

    def _counted(self, mask: Tensor | None, kept: Tensor | None) -> Tensor | None:
        """Positions that count [...] and levels that are kept, as one mask [..., Q]."""
        if mask is None:
            return kept
        mask = mask[..., None].expand(*mask.shape, self.num_codebooks)
        return mask if kept is None else mask & kept

    def _level_losses(
        self, compared: Tensor, chosen: Tensor, mask: Tensor | None, counted: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`_losses` over the levels [..., Q, d] that count, of all positions that count."""
        loss, losses = self._losses(compared, chosen, counted)
        if counted is None:
            return loss, losses
        # a dropped level counts as a perfect one: a sample's weight stays the same
        total = counted.numel() if mask is None else mask.sum().clamp(min=1) * self.num_codebooks
        share = counted.sum() / total
        return loss * share, {name: term * share for name, term in losses.items()}

    def _gather(self, compared: Tensor, codes: Tensor, counted: Tensor | None) -> None:
        """Every level's vectors [..., Q, d] and codes [..., Q] to its codebook's statistics."""
        for level, codebook in enumerate(self.codebooks):
            mask = None if counted is None else counted[..., level]
            level_codes = codes[..., level]
            level_codes = level_codes.flatten() if mask is None else level_codes[mask]
            codebook.gather(valid_rows(compared[..., level, :], mask), level_codes)
