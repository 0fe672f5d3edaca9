"""Devices: which one to use, what kind it is, exact float32, seeds.

With the `*_xla.py` kernels the only place that knows the words "xla" and "tpu"; torch_xla is
imported only when one of them is asked for.
"""

import contextlib
import importlib.util
import os
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch

from vqtok.errors import ConfigError

# numerics profiles, by which datasets are tokenized: see `vqtok.models.numerics`
EXACT, BF16 = "exact", "bf16"
NUMERICS = (EXACT, BF16)


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device to run on. "auto" takes CUDA, then a TPU through torch_xla, then the CPU.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "xla", "tpu" (the same as "xla"), or a device.

    Raises:
        ConfigError: an unknown word, or a device that this machine does not have.
    """
    if isinstance(device, str) and device in ("xla", "tpu"):
        return _xla_device()
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return _xla_device() if _has_tpu() else torch.device("cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device must be 'auto', 'xla' or a torch device such as 'cpu' or 'cuda:0'; "
            f"got {device!r}."
        ) from error
    if picked.type == "cuda":
        _check_cuda(picked)
    return picked


def device_kind(device: str | torch.device) -> str:
    """The word by which kernels are chosen: "cpu", "cuda", "xla", ...; no index."""
    return torch.device(device).type


def visible_cuda() -> list[str]:
    """What CUDA_VISIBLE_DEVICES would say of each GPU that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def _check_cuda(device: torch.device) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ConfigError(
            f"device {str(device)!r} was asked for, but torch sees {count} CUDA devices here; "
            "use device='auto' or 'cpu', or install a torch built for this GPU."
        )


def _has_tpu() -> bool:
    """True where torch_xla is installed and runs on something other than the CPU."""
    if importlib.util.find_spec("torch_xla") is None:
        return False
    import torch_xla.runtime

    return torch_xla.runtime.device_type() != "CPU"


def _xla_device() -> torch.device:
    if importlib.util.find_spec("torch_xla") is None:
        raise ConfigError(
            "device 'xla' wants torch_xla, which is not installed; "
            "install vqtok[tpu] in its own environment (it pins torch 2.9)."
        )
    import torch_xla

    return torch_xla.device()


def autocast_off(device: str | torch.device) -> contextlib.AbstractContextManager:
    """A block in which autocast does not touch float32 arithmetic on this device."""
    kind = device_kind(device)
    if not torch.amp.is_autocast_available(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


class _ExactNumerics:
    """The settings are global to the process, so threads that overlap share one change.

    torch's per-backend `fp32_precision` can be read and written whatever the caller used before;
    the older `allow_tf32` and `get_float32_matmul_precision` raise once both have been used.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[str] = []
        self._cudnn_before = (False, False)

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._before = [backend.fp32_precision for backend in self._backends()]
            cudnn = torch.backends.cudnn
            self._cudnn_before = (cudnn.benchmark, cudnn.deterministic)
            for backend in self._backends():
                backend.fp32_precision = "ieee"
            cudnn.benchmark, cudnn.deterministic = False, True

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for backend, precision in zip(self._backends(), self._before, strict=True):
                backend.fp32_precision = precision
            cudnn = torch.backends.cudnn
            cudnn.benchmark, cudnn.deterministic = self._cudnn_before

    def _backends(self) -> tuple:
        cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
        return (
            torch.backends.cuda.matmul,
            *(cudnn.conv, cudnn.rnn),
            *(mkldnn.matmul, mkldnn.conv, mkldnn.rnn),
        )


_EXACT = _ExactNumerics()


@contextlib.contextmanager
def exact_numerics() -> Iterator[None]:
    """A block in which float32 means float32: no TF32, no bfloat16 passes, on CUDA and CPU.

    Codes made under `torch.set_float32_matmul_precision("high")` differ from codes made without.
    Convolutions are deterministic inside, too. The settings before come back afterwards, also
    after an error, when blocks nest, and when several threads are inside.
    It does not reach a TPU, whose precision is fixed when a program is compiled.
    """
    _EXACT.enter()
    try:
        yield
    finally:
        _EXACT.leave()


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices).

    Raises:
        ConfigError: numpy wants 0 <= seed < 2**32.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"a seed must be in 0 to {2**32 - 1}; got {seed}.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
