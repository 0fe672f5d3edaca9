"""The parts of a tokenizer's training forward that are the same for every modality."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


def crop(outputs: Tensor, shape: Sequence[int]) -> Tensor:
    """Cuts every axis after the channels to the length that it has in `shape`."""
    for axis, length in enumerate(shape[2:], 2):
        outputs = outputs.narrow(axis, 0, length)
    return outputs


def reconstruction_losses(
    outputs: Tensor, inputs: Tensor, mask: Tensor | None, hop: int
) -> dict[str, Tensor]:
    """Mean absolute and mean squared error.

    Args:
        outputs: the shape of `inputs`.
        inputs: [B, C, *axes].
        mask: [B, *grid] bool, True where a position counts; None counts everything.
        hop: input steps under one position, along each axis.

    Returns:
        "l1" and "mse", float32 scalars.
    """
    error = outputs.float() - inputs.float()
    if mask is None:
        return {"l1": error.abs().mean(), "mse": error.square().mean()}
    for axis in range(1, mask.ndim):
        mask = mask.repeat_interleave(hop, axis)
    weight = crop(mask[:, None], inputs.shape).expand_as(error).float()
    count = weight.sum().clamp(min=1)
    l1, mse = (error.abs() * weight).sum() / count, (error.square() * weight).sum() / count
    return {"l1": l1, "mse": mse}


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that fills with the outputs of `modules` as they run."""
    outputs: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda *call: outputs.append(call[2])) for m in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
