"""How many workers a run gets, where, and how they begin."""

import signal
from functools import partial
from types import SimpleNamespace

import pytest

import vqtok.data.executors as executors
from tests.data.fake import FakeTokenizer
from tests.data.fake_crashes import only_where
from vqtok.data import Execution, tokenize_dataset
from vqtok.data.dispatch import Dispatcher
from vqtok.data.plan import Unit
from vqtok.data.processes import Process, ProcessExecutor
from vqtok.data.sources import Segment
from vqtok.errors import ConfigError, VqtokError


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


def test_workers_have_the_environment_that_the_driver_has_now(photos, tmp_path, monkeypatch):
    for word in ("first", "second"):  # what workers are forked from began with the first
        monkeypatch.setenv("VQTOK_TEST_WORD", word)
        options = {"workers": 2, "tokenizer_factory": partial(only_where, word)}
        report = tokenize_dataset(photos, tmp_path / word, FakeTokenizer(), **options)
        assert report.ok == 10


def ended_process(task, exitcode: int) -> SimpleNamespace:
    return SimpleNamespace(
        task=task, is_ready=True, end=lambda: "gone", process=SimpleNamespace(exitcode=exitcode)
    )


def test_a_killed_worker_among_others_blames_no_row_and_leaves_them_more_memory(tmp_path):
    units = [Unit(0, (Segment("f", 1, "v", 0, 9),))]
    dispatcher = Dispatcher(units)
    executor = ProcessExecutor(SimpleNamespace(device="cpu"), 4, tmp_path, 1.0)

    for left in (3, 2, 1):
        process = ended_process(dispatcher.next(), -signal.SIGKILL)
        executor.processes.append(process)
        executor._drop(process, dispatcher, "")
        assert executor.workers == left
    task = dispatcher.next()
    assert (task.one_by_one, task.poison) == (False, {})
    for _ in range(2):  # alone, it is no neighbour's fault
        process = ended_process(task, -signal.SIGKILL)
        executor.processes.append(process)
        executor._drop(process, dispatcher, "")
        task = dispatcher.next()

    assert executor.workers == 1
    assert task.one_by_one


def test_a_worker_that_cannot_start_says_what_a_script_needs(tmp_path, monkeypatch):
    def refuse(self):
        raise BrokenPipeError("Broken pipe")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)

    with pytest.raises(VqtokError, match=r'needs if __name__ == "__main__"'):
        Process(SimpleNamespace(device="cpu"), tmp_path, 1)


def test_codes_inside_their_own_source_are_refused(photos, tmp_path):
    with pytest.raises(ConfigError, match="inside the source"):
        tokenize_dataset(photos, photos / "a" / "codes", FakeTokenizer())

    assert not (photos / "a" / "codes").exists()
