"""Float32 whatever the model's dtype: codes repeat only if their arithmetic does.

bfloat16 has 8 significant bits: a codebook cast to it and back has moved, and half of an FSQ
grid cannot be told apart in it (vector-quantize-pytorch #114).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vqtok.devices import autocast_off, exact_numerics


class Float32Module(nn.Module):
    """A module whose tensors, and those of its children, change device but never dtype.

    `model.to(torch.bfloat16)`, `.half()` and `.double()` leave them exactly as they are.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def same_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype == tensor.dtype:
                return moved
            # a cast already rounded `moved`: take only the device from it
            return tensor.to(device=moved.device)

        return super()._apply(same_dtype, recurse)


@contextmanager
def float32_math(tensor: Tensor) -> Iterator[None]:
    """A block in which float32 stays float32 on the tensor's device: no autocast, no TF32."""
    with exact_numerics(), autocast_off(tensor.device):
        yield


def float32_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear map with an explicit dtype, so that a bfloat16 default does not reach it."""
    return nn.Linear(in_features, out_features, dtype=torch.float32)
