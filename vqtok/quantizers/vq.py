"""Vector quantization: every latent becomes its nearest code.

Sources: van den Oord et al. 2017, arXiv 1711.00937; unit-norm codes of low width after Yu et al.
2021 (ViT-VQGAN), arXiv 2110.04627, section 3.2; rotation trick: Fifty et al. 2024,
arXiv 2410.06424.
Shapes: latents [..., D], codes [..., 1].
"""

from torch import Tensor, nn

from vqtok.quantizers.base import QuantizerOutput, whole_number
from vqtok.quantizers.codebook import Codebook
from vqtok.quantizers.learned import Begin, LearnedQuantizer, valid_rows
from vqtok.quantizers.precision import float32_linear, float32_math


class VectorQuantizer(LearnedQuantizer):
    """One codebook of K codes.

    Args:
        dim: D, width of the latents.
        codebook_size: K.
        codebook_dim: width of the codes if not D: latents pass a linear map in and out.
        learning: "ema" or "gradient", see `Codebook`.
        decay: of the EMA statistics.
        unit_norm: latents and codes are compared on the unit sphere, and `decode` gives unit
            vectors (before the map out).
        commitment_weight: weight of the commitment loss.
        gradient: "straight_through" or "rotation".
        revive_below: a code is dead below this share of uniform use; 0 revives nothing.
        revive_by: "random" or "split".
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        learning: str = "ema",
        decay: float = 0.99,
        unit_norm: bool = False,
        commitment_weight: float = 0.25,
        gradient: str = "straight_through",
        revive_below: float = 0.1,
        revive_by: str = "random",
    ):
        super().__init__(dim, (codebook_size,), commitment_weight, gradient)
        width = dim if codebook_dim is None else whole_number("codebook_dim", codebook_dim, 1)
        self.codebook = Codebook(
            codebook_size, width, learning, decay, unit_norm, revive_below, revive_by
        )
        self.project_in = float32_linear(dim, width) if width != dim else nn.Identity()
        self.project_out = float32_linear(width, dim) if width != dim else nn.Identity()

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """[..., D] float to [..., 1] int64 in [0, K)."""
        self.check_latents(latents)
        self.active_codebooks(num_codebooks)
        with float32_math(latents):
            return self.codebook.nearest(self._project(latents))[..., None]

    def decode(self, codes: Tensor) -> Tensor:
        """[..., 1] int64 to [..., D] float32."""
        self.check_codes(codes)
        with float32_math(codes):
            return self.project_out(self.codebook.lookup(codes[..., 0]))

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """[..., D] to quantized latents with gradient, codes [..., 1] and losses."""
        self.check_latents(latents)
        self.check_mask(latents, mask)
        self._start_if_needed(latents, mask)
        with float32_math(latents):
            vectors = self._project(latents)
            codes = self.codebook.nearest(vectors)
            chosen = self.codebook.lookup(codes)
            loss, losses = self._losses(vectors, chosen, mask)
            quantized = self.project_out(self._pass_gradient(vectors, chosen))
        valid_codes = codes.flatten() if mask is None else codes[mask]
        self.codebook.gather(valid_rows(vectors, mask), valid_codes)
        self._upkeep_if_due()
        return QuantizerOutput(quantized.to(latents.dtype), codes[..., None], loss, losses)

    def _project(self, latents: Tensor) -> Tensor:
        return self.codebook.prepare(self.project_in(latents.float()))

    def _refit(self, latents: Tensor, codes: Tensor) -> None:
        rows, row_codes = self._project(latents).flatten(0, -2), codes.flatten()
        self.codebook.move(rows - self.codebook.lookup(row_codes), row_codes)

    def _start(self, latents: Tensor, mask: Tensor | None, begin: Begin) -> None:
        begin(self.codebook, valid_rows(self._project(latents), mask))
