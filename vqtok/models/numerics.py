"""What a tokenizer computes in: the dtype of its networks, and its numerics profile.

    exact   float32 all through, without TF32: the default
    bf16    the encoder's products in bfloat16, except those of its first and its last layer;
            everything else, the quantizer's distances among it, in float32

The first layer reads pixels or samples, which have more digits than bfloat16, and the last one
places latents between codes. They are a small part of the work, but with them in float32 only a
quarter as many codes of vqtok/vim-vq-tiny differ from the exact ones, at the same speed.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from vqtok.devices import EXACT, NUMERICS, autocast_off, device_kind, exact_numerics
from vqtok.errors import ConfigError

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Call = tuple[nn.Module, str]  # a module and the name of a method


class Numerics:
    """Part of `VQTokenizerModel`: casts, and copies that run in another profile.

    Attributes:
        numerics: the profile, "exact" or "bf16".
    """

    numerics: str = EXACT

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights of encoder and decoder; the quantizer's are float32."""
        floating = (t.dtype for t in self._tensors() if t.is_floating_point())
        return next(floating, torch.float32)

    def compute_in(self, dtype: torch.dtype) -> "Numerics":
        """Casts encoder and decoder; codes stay decodable, whatever precision they were made in.

        The quantizer keeps to float32, and `fingerprint.decode` to that of the weights as they
        were, as long as they are not trained on.
        """
        if dtype == self.dtype:
            return self
        decode = self.fingerprint.decode
        self._cast(dtype)
        self._fingerprints.keep(decode, of=self)
        return self

    def to(self, *args, **kwargs):
        """As `torch.nn.Module.to`; a cast leaves codes decodable, as `compute_in` does."""
        dtype = torch._C._nn._parse_to(*args, **kwargs)[1]
        decode = self.fingerprint.decode if dtype not in (None, self.dtype) else None
        moved = super().to(*args, **kwargs)
        if decode is not None:
            self._fingerprints.keep(decode, of=self)
        return moved

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradients, no autocast, evaluation mode, exact arithmetic; training mode comes back.

        Not torch.inference_mode: its codes could not be used in anyone's training afterwards.
        """
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with torch.no_grad(), exact_numerics(), autocast_off(self.device):
                yield
        finally:
            for module in training:
                module.training = True

    def with_numerics(self, profile: str) -> "Numerics":
        """This tokenizer for "exact"; for "bf16" another one with the same tensors.

        The other one's `fingerprint.encode` differs and its `fingerprint.decode` does not: its
        codes are other ones here and there, and mean the same. It follows changes of the tensors
        in place, but not a move to another device.

        Raises:
            ConfigError: an unknown profile, weights that are not float32, or nothing that could
                compute in bfloat16 here.
        """
        if profile not in NUMERICS:
            raise ConfigError(f"numerics must be one of {NUMERICS}; got {profile!r}.")
        if (self.numerics, self.dtype) != (EXACT, torch.float32):
            raise ConfigError(
                f"numerics {profile!r} wants a tokenizer that computes in float32; this one has "
                f"numerics {self.numerics!r} and weights in {self.dtype}: load it again."
            )
        if profile == EXACT:
            return self
        if not torch.amp.is_autocast_available(device_kind(self.device)):
            raise ConfigError(f"torch has no bfloat16 autocast on {self.device}: use 'exact'.")
        tensors = {id(tensor): tensor for tensor in self._tensors()}
        other = copy.deepcopy(self, tensors)  # the memo: tensors count as copied
        other.numerics = profile
        for module, method in other.encoder_calls():
            setattr(module, method, CallIn(module, method, torch.bfloat16))
        for module in other.float32_layers():
            module.forward = CallIn(module, "forward", None)
        return other

    def encoder_calls(self) -> Sequence[Call]:
        """All that is called of the encoder on the way from inputs to latents."""
        return [(self.encoder, "forward")]

    def float32_layers(self) -> Sequence[nn.Module]:
        """Layers of the encoder that compute in float32 in every profile.

        Raises:
            ConfigError: these would be all.
        """
        parts = dict.fromkeys(module for module, _ in self.encoder_calls())
        layers = [m for part in parts for m in part.modules() if isinstance(m, PRODUCTS)]
        edges = dict.fromkeys([*layers[:1], *layers[-1:]])
        if len(edges) == len(dict.fromkeys(layers)):
            raise ConfigError(
                f"numerics 'bf16' means nothing to this {type(self).__name__}: its encoder has "
                f"{len(edges)} layers, and the first and the last compute in float32. Use 'exact'."
            )
        return list(edges)

    def _cast(self, dtype: torch.dtype) -> None:
        self.encoder.to(dtype)
        self.decoder.to(dtype)

    # The same cast by its other names; torch would go past `to`.

    def half(self) -> "Numerics":
        return self.to(torch.float16)

    def bfloat16(self) -> "Numerics":
        return self.to(torch.bfloat16)

    def float(self) -> "Numerics":
        return self.to(torch.float32)

    def double(self) -> "Numerics":
        return self.to(torch.float64)


class CallIn:
    """Takes the place of a module's method: the same, with autocast on or off, and float32 out.

    Args:
        module: of a copy that `with_numerics` makes; it has tensors.
        method: the name of the method.
        dtype: what autocast computes in; None turns it off, and inputs become float32.
    """

    def __init__(self, module: nn.Module, method: str, dtype: torch.dtype | None):
        self.module, self.method, self.dtype = module, method, dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.dtype is None:
            args, kwargs = tree_map(as_float32, (args, kwargs))
        original = getattr(type(self.module), self.method)
        with self._context():
            return tree_map(as_float32, original(self.module, *args, **kwargs))

    def _context(self) -> AbstractContextManager:
        device = next(self.module.parameters()).device
        if self.dtype is None:
            return autocast_off(device)
        return torch.autocast(device.type, dtype=self.dtype)


def as_float32(value: Any) -> Any:
    """A bfloat16 tensor as float32, anything else as it is."""
    low = isinstance(value, Tensor) and value.dtype == torch.bfloat16
    return value.float() if low else value
