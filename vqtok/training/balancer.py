"""Loss terms by their share of the gradient instead of by their scale.

    losses: {mel: {weight: 2, sample_rate_hz: 16000}, waveform: 1, balancer: true}

A weight then says what part of the reconstruction's gradient a term has: here two thirds are the
mel distance's, whatever its values and however they change. The quantizer's losses, which do not
depend on the reconstruction, are added as they are.

Source: Défossez et al. 2022 (EnCodec), arXiv 2210.13438, section 3.4, equation 4; norms are taken
of each item of the batch, as in their code. Here the batch's gradient is the mean of its items',
not the sum, so that accumulated small batches are one large batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vqtok.errors import ConfigError

SMALLEST_NORM = 1e-12  # a term whose gradient is zero stays zero


class LossBalancer:
    """Scales every term's gradient at the reconstruction to its share; keeps running norms.

    Args:
        total_norm: length of the whole gradient for an item of the batch, if all terms' gradients
            point one way.
        decay: of the running means of the norms, per batch.
    """

    def __init__(self, total_norm: float = 1.0, decay: float = 0.999):
        if total_norm <= 0 or not 0 <= decay < 1:
            raise ConfigError(
                "losses.balancer wants total_norm above 0 and decay in 0 to below 1; "
                f"got {total_norm} and {decay}."
            )
        self.total_norm, self.decay = float(total_norm), float(decay)
        # name to [weighted sum of norms, sum of weights]: a mean without a bias to its start
        self._sums: dict[str, Tensor] = {}

    def balance(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float], reconstruction: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A loss with the balanced gradient, and the running norm of every term for the log.

        Args:
            terms: scalars, unweighted, with the graph from the reconstruction.
            weights: shares before they are divided by their sum.
            reconstruction: [B, ...], with the model's graph.

        Returns:
            a float32 scalar whose value is the weighted sum of the terms, and whose gradient at
            the reconstruction is the sum of each term's, scaled to its share; and norms by name.
        """
        gradients = {
            # terms may share a part of the graph, as the adversary's do
            name: torch.autograd.grad(value, reconstruction, retain_graph=True)[0].float()
            for name, value in terms.items()
        }
        norms = self._update({name: _item_norm(g) for name, g in gradients.items()})
        total = sum(weights[name] for name in terms)
        balanced = sum(
            (self.total_norm * weights[name] / total) / (norms[name] + SMALLEST_NORM) * gradient
            for name, gradient in gradients.items()
        )
        # the model's graph is walked once, by this product; the terms' graphs are done with
        carrier = (reconstruction.float() * balanced).sum() / reconstruction.shape[0]
        value = sum(weights[name] * value.detach() for name, value in terms.items())
        return value + (carrier - carrier.detach()), norms

    def _update(self, norms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Running means, the same in every process; a term begins its own when it first comes."""
        stacked = torch.stack(list(norms.values()))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(stacked)
            stacked /= torch.distributed.get_world_size()
        means = {}
        for name, norm in zip(norms, stacked, strict=True):
            now = torch.stack([norm, torch.ones_like(norm)])
            before = self._sums.get(name)
            if before is not None:
                now = now + self.decay * before.to(now.device)
            self._sums[name] = now
            means[name] = now[0] / now[1]
        return means

    def training_state(self) -> dict:
        """The running norms: all that a resumed run needs."""
        return {"sums": dict(self._sums)}

    def load_training_state(self, state: dict) -> None:
        self._sums = dict(state["sums"])


def _item_norm(gradient: Tensor) -> Tensor:
    """Mean length of the gradients of the items [B, ...]."""
    return gradient.flatten(1).norm(dim=1).mean()
