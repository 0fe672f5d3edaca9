"""How modules of this package start, as transformers asks for it: tensor by tensor, and safely."""

from itertools import chain

from torch import nn
from transformers import initialization as init


def start(module: nn.Module) -> bool:
    """Fills the tensors of a module that knows its own start; False if it does not.

    `initial_state()` gives tensors by name, `reset_parameters()` sets them in place. Tensors that
    transformers has loaded from a file keep their values either way.
    """
    if hasattr(module, "initial_state"):
        for name, value in module.initial_state().items():
            init.copy_(getattr(module, name), value)
        return True
    if not hasattr(module, "reset_parameters"):
        return False
    tensors = chain(module.parameters(), module.buffers())
    loaded = [t for t in tensors if getattr(t, "_is_hf_initialized", False)]
    values = [tensor.clone() for tensor in loaded]
    module.reset_parameters()
    for tensor, value in zip(loaded, values, strict=True):
        tensor.copy_(value)
    return True
