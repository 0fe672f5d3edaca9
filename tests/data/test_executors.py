"""How many workers a run gets, where, and how they begin."""

from types import SimpleNamespace

import vqtok.data.executors as executors
from vqtok.data import Execution
from vqtok.data.processes import ProcessExecutor


def test_workers_share_the_gpus_that_this_process_may_use(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    job = SimpleNamespace(device="cuda")
    executor = ProcessExecutor(job, 5, tmp_path, 1.0)

    given = []
    for _ in range(5):
        given.append(executor._free_gpu())
        executor.processes.append(SimpleNamespace(gpu=given[-1]))

    assert given == ["3", "5", "3", "5", "3"]
    assert Execution(workers=None).workers_for(100, "cuda") == 2
    assert Execution(workers=None).workers_for(1, "cuda") == 1
    assert ProcessExecutor(SimpleNamespace(device="cpu"), 2, tmp_path, 1.0)._free_gpu() == ""


def test_there_are_no_more_workers_by_default_than_units_cores_and_memory_allow(monkeypatch):
    monkeypatch.setattr(executors, "cores", lambda: 16)
    monkeypatch.setattr(executors, "free_bytes", lambda: 9 << 30)
    auto = Execution(workers=None)

    assert auto.workers_for(units=100, device="cpu") == 6
    assert auto.workers_for(units=3, device="cpu") == 3
    assert Execution(workers=9).workers_for(units=3, device="cpu") == 9
    monkeypatch.setattr(executors, "free_bytes", lambda: 1 << 20)
    assert auto.workers_for(units=100, device="cpu") == 1
