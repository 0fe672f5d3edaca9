"""Product quantization: the latents are cut into groups of channels, each with its own codebook.

Source: Jegou, Douze, Schmid 2011, "Product quantization for nearest neighbor search", section II.
Shapes: latents [..., D], codes [..., Q]; code q stands for channels q D/Q to (q + 1) D/Q.
"""

import torch
from torch import Tensor

from vqtok.errors import ConfigError
from vqtok.quantizers.base import QuantizerOutput, whole_number
from vqtok.quantizers.learned import Begin, LearnedQuantizer, codebook_stack, valid_rows
from vqtok.quantizers.precision import float32_math


class ProductQuantizer(LearnedQuantizer):
    """Q codebooks of K codes of width D / Q, side by side: K to the power of Q vectors in all.

    Args:
        dim: D, width of the latents, a multiple of Q.
        codebook_size: K of every group.
        num_codebooks: Q, the number of groups.
        learning: "ema" or "gradient", see `Codebook`.
        decay: of the EMA statistics.
        commitment_weight: weight of the commitment loss.
        gradient: "straight_through" or "rotation", around all groups together.
        revive_below: a code is dead below this share of uniform use of its group.
        revive_by: "random" or "split".

    Groups are equals, not levels: fewer codebooks tell nothing of the channels left out, and
    `decode` fills these with the mean of their codes.
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
    ):
        sizes = (codebook_size,) * whole_number("num_codebooks", num_codebooks, 1)
        super().__init__(dim, sizes, commitment_weight, gradient)
        if dim % num_codebooks:
            raise ConfigError(
                "product wants a dim that is a multiple of num_codebooks; got "
                f"dim={dim}, num_codebooks={num_codebooks}."
            )
        self.group_dim = dim // num_codebooks
        self.codebooks = codebook_stack(
            num_codebooks,
            codebook_size,
            self.group_dim,
            learning=learning,
            decay=decay,
            revive_below=revive_below,
            revive_by=revive_by,
        )

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """[..., D] float to [..., q] int64 in [0, K), q = `num_codebooks` or all Q."""
        self.check_latents(latents)
        groups = self._groups(latents.detach().float())[: self.active_codebooks(num_codebooks)]
        with float32_math(latents):
            pairs = zip(self.codebooks, groups, strict=False)  # groups may be fewer
            return torch.stack([codebook.nearest(group) for codebook, group in pairs], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """[..., q] int64, the first q <= Q groups, to [..., D] float32."""
        self.check_codes(codes)
        present = codes.shape[-1]
        missing = [book.table().mean(0) for book in self.codebooks[present:]]
        rest = [mean.expand(*codes.shape[:-1], -1) for mean in missing]
        return torch.cat([*self._lookup(codes), *rest], -1)

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """[..., D] to quantized latents with gradient, codes [..., Q] and losses."""
        self.check_latents(latents)
        self.check_mask(latents, mask)
        self._start_if_needed(latents, mask)
        codes = self.encode(latents)
        with float32_math(latents):
            vectors = latents.float()
            chosen = torch.cat(self._lookup(codes), -1)
            loss, losses = self._losses(vectors, chosen, mask)
            quantized = self._pass_gradient(vectors, chosen)
        self._gather(vectors, codes, mask)
        self._upkeep_if_due()
        return QuantizerOutput(quantized.to(latents.dtype), codes, loss, losses)

    def _refit(self, latents: Tensor, codes: Tensor) -> None:
        columns = codes.flatten(0, -2).unbind(-1)
        groups = self._groups(latents.flatten(0, -2))
        for codebook, group, column in zip(self.codebooks, groups, columns, strict=True):
            codebook.move(group - codebook.lookup(column), column)

    def _groups(self, latents: Tensor) -> tuple[Tensor, ...]:
        """[..., D] to Q times [..., D / Q]."""
        return latents.split(self.group_dim, -1)

    def _lookup(self, codes: Tensor) -> list[Tensor]:
        """Codes [..., q] to q times [..., D / Q]."""
        groups = zip(self.codebooks, codes.unbind(-1), strict=False)  # codes may be fewer
        return [codebook.lookup(group) for codebook, group in groups]

    def _gather(self, vectors: Tensor, codes: Tensor, mask: Tensor | None) -> None:
        rows = valid_rows(vectors, mask)
        row_codes = codes.flatten(0, -2) if mask is None else codes[mask]
        for group, codebook in enumerate(self.codebooks):
            codebook.gather(self._groups(rows)[group], row_codes[:, group])

    def _start(self, latents: Tensor, mask: Tensor | None, begin: Begin) -> None:
        rows = valid_rows(latents.float(), mask)
        for codebook, group in zip(self.codebooks, self._groups(rows), strict=True):
            begin(codebook, group)
