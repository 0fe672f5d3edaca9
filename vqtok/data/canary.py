"""Codes of inputs made of integers: written down once, looked at wherever a worker starts.

A fingerprint says that weights and options are the same; the canary says that this machine makes
the same codes of them. In exact numerics a machine of the same kind makes every one of them; on
another kind, and in bfloat16, codes near a tie may differ.
"""

import logging
import platform
from pathlib import Path
from typing import Any

import torch

from vqtok.errors import FingerprintError

logger = logging.getLogger(__name__)

# share of the canary's codes that may differ on another kind of machine: near ties
MAX_FLIPS = 0.01
CPU_INFO = Path("/proc/cpuinfo")


def canary_of(tokenizer: Any) -> dict:
    """The flat codes of each canary input ("codes"; none for a tokenizer without canary inputs),
    and the "machine" that made them."""
    codes = []
    if hasattr(tokenizer, "canary_inputs"):
        with tokenizer.inference():
            inputs = tokenizer.canary_inputs().to(tokenizer.device)
            # one at a time, so that no batch decides how the device adds up
            codes = [tokenizer.encode(item[None]).flatten().tolist() for item in inputs]
    return {"codes": codes, "machine": machine_of(tokenizer)}


def machine_of(tokenizer: Any) -> str:
    """Everything outside the tokenizer that decides how its device adds up, in words."""
    device = torch.device(getattr(tokenizer, "device", "cpu"))
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    lines = CPU_INFO.read_text(errors="replace").splitlines() if CPU_INFO.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(models, platform.machine()) if device.type == "cpu" else device.type
    # the number of threads decides where a sum is cut
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def check_canary(now: dict, stored: dict, max_flips: float | None) -> None:
    """Raise FingerprintError if this machine makes other codes than the run was started with.

    Args:
        now: `canary_of` the tokenizer here.
        stored: that of the run.
        max_flips: share that may differ; None: of exact numerics, so nothing on a machine like the
            one that started the run.
    """
    before, after = ([code for item in c["codes"] for code in item] for c in (stored, now))
    if before == after:
        return
    flips = 1.0
    if len(before) == len(after):
        flips = sum(a != b for a, b in zip(before, after, strict=True)) / len(before)
    if max_flips is None:
        max_flips = 0.0 if now["machine"] == stored["machine"] else MAX_FLIPS
    if flips > max_flips:
        raise FingerprintError(
            f"the tokenizer has the right weights, but {flips:.2%} of the canary's codes differ "
            f"from those that the run was started with; {max_flips:.2%} may. The run was started "
            f"on {stored['machine']!r}, this is {now['machine']!r}: use the same kind of device "
            "and the same versions (.vqtok/run.json has them under 'software'), or start a new run."
        )
    logger.warning(
        "%.2f %% of the canary's codes differ from those that the run was started with",
        100 * flips,
    )
