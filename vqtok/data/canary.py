"""Codes of inputs made of integers: written down once, looked at wherever a worker starts.

A fingerprint says that weights and options are the same; the canary says that this machine makes
the same codes of them.
"""

import logging
from typing import Any

from vqtok.errors import FingerprintError

logger = logging.getLogger(__name__)

# share of the canary's codes that may differ on another kind of processor: near ties
MAX_FLIPS = 0.01


def canary_codes(tokenizer: Any) -> list[list[int]]:
    """The codes of each canary input, flat; none for a tokenizer without canary inputs."""
    if not hasattr(tokenizer, "canary_inputs"):
        return []
    with tokenizer.inference():
        inputs = tokenizer.canary_inputs().to(tokenizer.device)
        # one at a time, so that no batch decides how the device adds up
        return [tokenizer.encode(item[None]).flatten().tolist() for item in inputs]


def check_canary(now: list[list[int]], stored: list[list[int]]) -> None:
    """Raise FingerprintError if this machine makes other codes than the run was started with.

    Args:
        now: `canary_codes` here.
        stored: those of the run.
    """
    if now == stored:
        return
    before = [code for item in stored for code in item]
    after = [code for item in now for code in item]
    if len(before) == len(after):
        flips = sum(a != b for a, b in zip(before, after, strict=True)) / len(before)
        if flips <= MAX_FLIPS:
            logger.warning(
                "%.2f %% of the canary's codes differ from those that the run was started with",
                100 * flips,
            )
            return
    raise FingerprintError(
        "the tokenizer has the right weights, but this machine makes other codes of them than the "
        "one that started the run: use the same kind of device and the same versions "
        "(.vqtok/run.json has them under 'software'), or start a new run."
    )
