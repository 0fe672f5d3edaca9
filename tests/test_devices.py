"""Devices: what "auto" picks, what is refused, exact numerics that restore, seeds."""

import random
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import torch

from vqtok import devices
from vqtok.devices import (
    autocast_off,
    device_kind,
    exact_numerics,
    pick_device,
    seed_everything,
)
from vqtok.errors import ConfigError


def fake_torch_xla(monkeypatch, runs_on):
    """A torch_xla whose device is "meta", since the real one needs its own environment."""
    runtime = types.ModuleType("torch_xla.runtime")
    runtime.device_type = lambda: runs_on
    package = types.ModuleType("torch_xla")
    package.runtime, package.device = runtime, lambda: torch.device("meta")
    monkeypatch.setitem(sys.modules, "torch_xla", package)
    monkeypatch.setitem(sys.modules, "torch_xla.runtime", runtime)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name == "torch_xla")


@pytest.mark.parametrize(
    ("cuda", "xla", "picked"),
    [(True, "TPU", "cuda"), (False, "TPU", "meta"), (False, "CPU", "cpu"), (False, None, "cpu")],
)
def test_auto_takes_cuda_then_a_tpu_then_the_cpu(cuda, xla, picked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    if xla is None:
        monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    else:
        fake_torch_xla(monkeypatch, runs_on=xla)

    assert pick_device("auto").type == picked


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_named_device_is_obeyed(device):
    assert pick_device(device) == torch.device("cpu")
    assert device_kind(device) == "cpu"


def test_the_kind_has_no_index():
    assert device_kind("cuda:3") == "cuda"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", 1.5])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ConfigError, match="device must be"):
        pick_device(device)


@pytest.mark.parametrize("device", ["cuda:1", torch.device("cuda", 1)])
def test_a_cuda_device_that_is_not_there_is_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    assert pick_device("cuda").type == "cuda"
    with pytest.raises(ConfigError, match="'cuda:1' was asked for, but torch sees 1"):
        pick_device(device)


@pytest.mark.parametrize("device", ["xla", "tpu"])
def test_xla_without_torch_xla_is_refused_with_what_to_install(device, monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"vqtok\[tpu\]"):
        pick_device(device)


def test_importing_devices_does_not_import_torch_xla():
    program = "import sys, vqtok.devices; sys.exit('torch_xla' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)

    assert done.returncode == 0


def precisions():
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    places = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    places += (mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
    return [place.fp32_precision for place in places] + [cudnn.benchmark, cudnn.deterministic]


EXACT = ["ieee"] * 6 + [False, True]


@pytest.mark.parametrize("asked", ["highest", "high", "medium"])
def test_numerics_are_exact_inside_and_restored_after_nesting_and_errors(asked):
    def nested():
        with exact_numerics():
            with exact_numerics():
                seen.append(precisions())
            seen.append(precisions())
            raise KeyError("inside")

    seen, before = [], torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(asked)
    try:
        settings = precisions()
        with pytest.raises(KeyError, match="inside"):
            nested()
        assert seen == [EXACT, EXACT]
        assert precisions() == settings
        assert torch.get_float32_matmul_precision() == asked
    finally:
        torch.set_float32_matmul_precision(before)


def test_numerics_stay_exact_until_the_last_thread_leaves():
    settings, inside, leave = precisions(), threading.Event(), threading.Event()

    def work():
        with exact_numerics():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with exact_numerics():
        thread.start()
        inside.wait(10)
    assert precisions() == EXACT
    leave.set()
    thread.join()

    assert precisions() == settings


def test_autocast_does_not_reach_inside():
    x = torch.randn(8, 8)

    with torch.autocast("cpu", dtype=torch.bfloat16), autocast_off(x.device):
        assert (x @ x).dtype == torch.float32
    with autocast_off("meta"):  # a device without autocast
        assert (x @ x).dtype == torch.float32


def test_a_seed_repeats_python_numpy_and_torch():
    def draws():
        seed_everything(7)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draws() == draws()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_cannot_take_is_refused(seed):
    with pytest.raises(ConfigError, match=f"got {seed}"):
        seed_everything(seed)
