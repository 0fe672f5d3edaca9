"""An exponential moving average of a model's parameters, kept in float32.

Only parameters are averaged. Buffers, the codebooks among them, are averages already (or
counters) and stay as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vqtok.errors import ConfigError


class ParameterAverage:
    """shadow <- decay x shadow + (1 - decay) x parameter, after every optimizer step.

    The first steps use a lower decay, (1 + t) / (10 + t), so that the start is forgotten.

    Args:
        model: its trainable parameters are followed.
        decay: 0 < decay < 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ConfigError(f"ema_decay must lie between 0 and 1; got {decay}.")
        self.decay, self.updates = decay, 0
        self._live = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.shadow = {n: p.detach().float().clone() for n, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = [p.detach() for p in self._live.values()]
        if any(p.dtype != torch.float32 for p in live):
            live = [p.float() for p in live]
        torch._foreach_lerp_(list(self.shadow.values()), live, 1 - decay)

    @torch.no_grad()
    def reset(self) -> None:
        """Start again from the model's parameters as they are now."""
        self.updates = 0
        for name, parameter in self._live.items():
            self.shadow[name].copy_(parameter)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged parameters; afterwards its own again."""
        own = {n: p.detach().clone() for n, p in self._live.items()}
        self._write(self.shadow)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._live.items():
            parameter.copy_(values[name])

    def training_state(self) -> dict:
        return {"shadow": self.shadow, "updates": self.updates}

    def load_training_state(self, state: dict) -> None:
        if set(state["shadow"]) != set(self.shadow):
            raise ConfigError("the saved average belongs to a model with other parameters.")
        self.updates = state["updates"]
        for name, value in state["shadow"].items():
            self.shadow[name].copy_(value)
