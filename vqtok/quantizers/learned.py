"""What the quantizers with learned codebooks share: losses, gradient estimators, upkeep."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vqtok.errors import ConfigError
from vqtok.ops.gradients import rotation_trick, straight_through
from vqtok.quantizers.base import Quantizer, is_number
from vqtok.quantizers.codebook import FIRST_DRAW_SEED, Codebook
from vqtok.quantizers.precision import float32_math

GRADIENTS = {"straight_through": straight_through, "rotation": rotation_trick}
# starts one codebook on rows [N, D]: Codebook.initialize or Codebook.initialize_once
Begin = Callable[[Codebook, Tensor], None]


class LearnedQuantizer(Quantizer):
    """A quantizer whose codebooks learn. A subclass also writes `_start` and `_refit`.

    Args:
        dim: D, width of the latents.
        codebook_sizes: K of each of the Q codebooks.
        commitment_weight: weight of the commitment loss.
        gradient: "straight_through" or "rotation", how the gradient passes the choice of a code.
    """

    def __init__(
        self,
        dim: int,
        codebook_sizes: tuple[int, ...],
        commitment_weight: float,
        gradient: str,
    ):
        super().__init__(dim, codebook_sizes)
        if gradient not in GRADIENTS:
            raise ConfigError(f"gradient must be one of {sorted(GRADIENTS)}; got {gradient!r}.")
        if not is_number(commitment_weight) or not commitment_weight >= 0:
            raise ConfigError(f"commitment_weight must be 0 or more; got {commitment_weight!r}.")
        self.commitment_weight, self.gradient = commitment_weight, gradient
        self.deferred_upkeep = False

    def learned_codebooks(self) -> list[Codebook]:
        return [module for module in self.modules() if isinstance(module, Codebook)]

    def initialize(self, latents: Tensor, mask: Tensor | None = None) -> None:
        self.check_latents(latents)
        self.check_mask(latents, mask)
        self._begin(latents, mask, Codebook.initialize)

    @torch.no_grad()
    def fit(self, latents: Tensor, rounds: int = 4) -> None:
        """Learns the codebooks from latents alone, without a gradient.

        After a start by k-means come rounds in which the latents choose their codes anew and every
        code moves to the least squared error: Lloyd's iteration, and where codes add up, the
        alternation of additive quantization (Babenko and Lempitsky 2014, section 3.3).

        Args:
            latents: [..., D] float, all of them at once.
            rounds: more of them lower the error ever less.

        Raises:
            ConfigError: a codebook is frozen, or `rounds` is negative.
        """
        if rounds < 0:
            raise ConfigError(f"rounds must be 0 or more; got {rounds}.")
        self.check_latents(latents)
        with float32_math(latents):
            latents = latents.detach().float()
            self._start_fit(latents)
            for _ in range(rounds):
                self._refit(latents, self.encode(latents))

    def upkeep(self) -> None:
        for codebook in self.learned_codebooks():
            codebook.upkeep()

    def set_deferred_upkeep(self, deferred: bool) -> None:
        self.deferred_upkeep = deferred

    def freeze(self) -> None:
        for codebook in self.learned_codebooks():
            codebook.freeze()

    def _start(self, latents: Tensor, mask: Tensor | None, begin: Begin) -> None:
        """Calls `begin` for every codebook with the rows it will meet."""
        raise NotImplementedError(f"{type(self).__name__} must define _start.")

    def _start_fit(self, latents: Tensor) -> None:
        """The start of `fit`: latents [..., D] float32."""
        self._begin(latents, None, Codebook.initialize_thoroughly)

    def _refit(self, latents: Tensor, codes: Tensor) -> None:
        """Moves the codebooks to fit float32 latents [..., D] and their codes [..., Q] best."""
        raise NotImplementedError(f"{type(self).__name__} must define _refit.")

    def _begin(self, latents: Tensor, mask: Tensor | None, begin: Begin) -> None:
        with torch.no_grad(), float32_math(latents):
            self._start(latents, mask, begin)

    def _start_if_needed(self, latents: Tensor, mask: Tensor | None) -> None:
        """k-means on the first batch of a training run."""
        books = self.learned_codebooks()
        if self.training and not all(book.is_initialized or book.is_frozen for book in books):
            self._begin(latents, mask, Codebook.initialize_once)

    def _upkeep_if_due(self) -> None:
        if self.training and not self.deferred_upkeep:
            self.upkeep()

    def _pass_gradient(self, latents: Tensor, chosen: Tensor) -> Tensor:
        return GRADIENTS[self.gradient](latents, chosen.detach())

    def _losses(
        self, latents: Tensor, chosen: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum and terms for latents and their codes' vectors, both [..., D] float32.

        Source: van den Oord et al. 2017, equation 3; the codebook term only where codes learn by
        gradient.
        """
        losses = {"commitment": masked_mse(latents, chosen.detach(), mask)}
        loss = self.commitment_weight * losses["commitment"]
        if self.learned_codebooks()[0].learning == "gradient":
            losses["codebook"] = masked_mse(chosen, latents.detach(), mask)
            loss = loss + losses["codebook"]
        return loss, losses


def codebook_stack(
    num_codebooks: int,
    codebook_size: int,
    dim: int,
    *,
    learning: str,
    revive_below: float,
    revive_by: str,
    decay: float = 0.99,
    unit_norm: bool = False,
) -> nn.ModuleList:
    """Q codebooks [K, D] that are alike but for the draw that each starts with."""
    return nn.ModuleList(
        Codebook(
            codebook_size,
            dim,
            learning,
            decay,
            unit_norm,
            revive_below,
            revive_by,
            seed=FIRST_DRAW_SEED + number,
        )
        for number in range(num_codebooks)
    )


def masked_mse(first: Tensor, second: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared difference of [..., D] over the positions where mask [...] is True; else 0."""
    difference = first - second
    if mask is None:
        return difference.square().mean()
    # zero before the square: garbage at a masked position, even NaN, reaches no gradient
    difference = torch.where(mask[..., None], difference, 0)
    return difference.square().sum() / (mask.sum() * first.shape[-1]).clamp(min=1)


def valid_rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """[..., D] to [N, D], the positions that count."""
    return values.flatten(0, -2) if mask is None else values[mask]
