"""How a kernel refuses: it says why, and the reference runs instead.

A registered op (`torch.library.custom_op`) has a body, which is its reference and serves every
device, and at most one kernel for each device, registered by the file that is named after it
(`nearest_cpu.py`). PyTorch's dispatcher picks by the tensor's device, never by what the host has.

A kernel file has `why_not(...)`: the reasons why the kernel cannot take these arguments, from
facts that the host knows (shapes, dtypes, what is installed), so that asking never waits for a
device. No reasons: the kernel runs. Otherwise the kernel returns `fall_back(...)`.
"""

import logging
import os
from collections.abc import Callable

from torch import Tensor

from vqtok.errors import ConfigError

logger = logging.getLogger(__name__)

_said: set[str] = set()  # what has been logged in this process


def fall_back(kernel: str, reasons: list[str], reference: Callable[..., Tensor], *args) -> Tensor:
    """Run the reference because the kernel refused; logged once at INFO for each set of reasons.

    Args:
        kernel: who refuses, for example "nearest_code on cpu".
        reasons: what `why_not` gave; not empty.
        reference: what runs instead, with `args`.

    Raises:
        ConfigError: the environment has VQTOK_STRICT=1, which forbids the slower way.
    """
    refusal = f"the kernel of {kernel} refuses: {'; '.join(reasons)}."
    if is_strict():
        raise ConfigError(
            f"{refusal} VQTOK_STRICT=1 forbids the reference: unset it or change the call."
        )
    if refusal not in _said:
        _said.add(refusal)
        logger.info("%s The reference runs instead; it gives the same codes, slower.", refusal)
    return reference(*args)


def is_strict() -> bool:
    """Whether the environment asks for an error where a kernel refuses."""
    return os.environ.get("VQTOK_STRICT", "0") not in ("", "0")
