"""Several workers: the same rows, whatever ends them, and whenever."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.killable import EXIT_CODE, KillableRuns
from tests.data.rows import codes_of, rows_of
from vqtok.data import Execution, tokenize_dataset, verify_run
from vqtok.data.dispatch import Dispatcher
from vqtok.data.jobs import pickled
from vqtok.data.plan import Unit
from vqtok.data.sources import Segment
from vqtok.errors import ConfigError, FingerprintError, VqtokError

KILLED = -9


@pytest.fixture(scope="module")
def run_process(tmp_path_factory) -> Iterator[KillableRuns]:
    """Tokenizes in a process that may die; see `KillableRuns`."""
    runs = KillableRuns(tmp_path_factory.mktemp("runs") / "stderr.txt")
    yield runs
    runs.stop()


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Forty images; number 5 is the one that some tokenizers cannot bear."""
    root = tmp_path_factory.mktemp("many") / "images"
    root.mkdir()
    for index in range(40):
        (root / f"{index:02d}.png").write_bytes(png(index))
    return root


@pytest.fixture(scope="module")
def clean(many, tmp_path_factory) -> tuple[list[tuple], str]:
    """Rows and digest of a run of one worker that nothing disturbed."""
    out = tmp_path_factory.mktemp("clean") / "out"
    tokenize_dataset(many, out, FakeTokenizer(), unit_rows=4)
    return codes_of(out), verify_run(out).rows_digest


def test_spawned_workers_give_the_rows_of_one(many, tmp_path, clean):
    report = tokenize_dataset(many, tmp_path / "out", FakeTokenizer(), unit_rows=4, workers=2)

    verified = verify_run(tmp_path / "out")
    assert verified.problems == []
    assert verified.rows_digest == clean[1]
    assert codes_of(tmp_path / "out") == clean[0]
    assert report.rows == 40
    assert list((tmp_path / "out/.vqtok/tmp").iterdir()) == []
    commits = [json.loads(p.read_text()) for p in (tmp_path / "out/.vqtok/commits").iterdir()]
    assert {"read", "tokenize", "write", "publish"} <= set(commits[0]["seconds"])


@pytest.mark.parametrize("workers", [2, 3])
def test_rows_do_not_depend_on_the_number_of_workers(many, tmp_path, clean, run_process, workers):
    run_process(many, tmp_path / "out", workers=workers, tokenizer="Slow")

    assert codes_of(tmp_path / "out") == clean[0]


@pytest.mark.parametrize("tokenizer", ["EndsOnOne", "SleepsOnOne"])
def test_an_input_that_ends_its_workers_becomes_a_row(
    many, tmp_path, clean, run_process, tokenizer
):
    out = tmp_path / "out"

    code = run_process(many, out, tokenizer=tokenizer, workers=2, unit_rows=10, stall_timeout=1.0)

    (bad,) = [row for row in rows_of(out) if row["status"] != "ok"]
    assert code == 0
    assert (bad["src"], bad["status"]) == ("05.png", "crash")
    assert ("139" if tokenizer == "EndsOnOne" else "no sign of life") in bad["error"]
    good = [row[1:6] for row in codes_of(out) if row[1] != "05.png"]
    assert good == [row[1:6] for row in clean[0] if row[1] != "05.png"]
    assert verify_run(out).problems == []


def test_a_worker_that_was_stopped_is_replaced(many, tmp_path, clean, run_process):
    out = tmp_path / "out"

    code = run_process(many, out, tokenizer="Slow", workers=2, stall_timeout=1.0, kill=["stop", 2])

    assert code == 0
    assert codes_of(out) == clean[0]


@pytest.mark.parametrize("seed", range(int(os.environ.get("VQTOK_STORMS", "4"))))
def test_a_storm_of_kills_loses_and_repeats_nothing(many, tmp_path, clean, run_process, seed):
    choose, out, codes = random.Random(seed), tmp_path / "out", []

    for attempt in range(3):
        kill = [choose.choice(["driver", "worker"]), choose.randrange(10)]
        more = {"tokenizer": "Slow", "workers": 2, "kill": kill}
        codes.append(run_process(many, out, resume=bool(attempt), **more))
    codes.append(run_process(many, out, resume=True, workers=2))

    assert set(codes) <= {0, KILLED}
    assert codes[-1] == 0
    verified = verify_run(out)
    assert verified.problems == []
    assert verified.rows_digest == clean[1]
    assert codes_of(out) == clean[0]


def test_a_full_disk_ends_the_run_and_resumes(many, tmp_path, clean, run_process):
    out = tmp_path / "out"

    failed = run_process(many, out, unit_rows=10, file_bytes=6000)
    resumed = run_process(many, out, unit_rows=10, resume=True)

    assert (failed, resumed) == (1, 0)
    assert [row[1:] for row in codes_of(out)] == [row[1:] for row in clean[0]]
    assert verify_run(out).rows_digest == clean[1]


def test_tasks_that_share_a_run_make_each_unit_once(many, tmp_path, clean, run_process):
    out = tmp_path / "out"

    first = run_process(many, out, share=[0, 3])
    again = run_process(many, out, share=[0, 3])
    killed = run_process(many, out, "after_link:4", share=[1, 3])
    unfinished = not (out / "vqtok.json").exists()
    rest = [run_process(many, out, share=[index, 3]) for index in (2, 1)]

    assert (first, again, killed, rest) == (0, 0, EXIT_CODE, [0, 0])
    assert unfinished
    assert codes_of(out) == clean[0]
    assert verify_run(out).rows_digest == clean[1]


def test_tasks_with_overlapping_shares_publish_a_unit_once(many, tmp_path, clean, run_process):
    out = tmp_path / "out"

    run_process(many, out, share=[0, 2])
    run_process(many, out, share=[0, 1])

    assert codes_of(out) == clean[0]


def test_a_task_of_a_shared_run_keeps_other_drivers_out(many, tmp_path):
    half = Execution("shard", task_index=0, num_tasks=2)
    report = tokenize_dataset(many, tmp_path / "out", FakeTokenizer(), unit_rows=4, executor=half)

    assert (report.missing_units, report.rows) == (5, 20)
    with pytest.raises(ConfigError, match="unit_rows"):
        tokenize_dataset(many, tmp_path / "out", FakeTokenizer(), unit_rows=5, executor=half)
    other = FakeTokenizer(encode="0" * 64)
    with pytest.raises(FingerprintError):
        tokenize_dataset(many, tmp_path / "out", other, executor=half)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"executor": "local", "workers": 0}, "workers"),
        ({"executor": "slurm"}, "executor"),
        ({"stall_timeout": 0.0}, "stall_timeout"),
        ({"task_index": 0}, "of the executor 'shard'"),
        ({"executor": "shard", "task_index": 2, "num_tasks": 2}, "2 of 2"),
        ({"executor": "shard", "task_index": 1}, "1 of None"),
        ({"executor": "shard"}, "does not know its task"),
    ],
)
def test_an_execution_that_cannot_be_is_refused(options, says, monkeypatch):
    for name in ("RANK", "SLURM_ARRAY_TASK_ID", "SKYPILOT_NODE_RANK"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ConfigError, match=says):
        Execution(**options)


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"},
        {"RANK": "3", "WORLD_SIZE": "4"},
        {"SKYPILOT_NODE_RANK": "3", "SKYPILOT_NUM_NODES": "4"},
    ],
)
def test_a_scheduler_says_which_task_this_is(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert Execution("shard").share() == (3, 4)


def test_a_tokenizer_that_cannot_travel_is_refused(many, tmp_path):
    class Local(FakeTokenizer):
        pass

    with pytest.raises(ConfigError, match="tokenizer_factory"):
        pickled(Local())


def units(count: int, rows: int = 4) -> list[Unit]:
    return [Unit(n, (Segment(f"f{n}", 1, "v", 0, rows),)) for n in range(count)]


def test_a_unit_is_looked_at_row_by_row_before_a_row_is_blamed():
    done = []
    dispatcher = Dispatcher(units(2), done.append)

    for _ in range(2):  # the unit ends two workers
        task = dispatcher.next()
        assert (task.unit.unit_id, task.one_by_one) == (0, False)
        dispatcher.at(0, 3)
        dispatcher.ended(0, "killed")
    for _ in range(2):  # its row 1 ends two more
        task = dispatcher.next()
        assert (task.one_by_one, task.poison) == (True, {})
        dispatcher.at(0, 1)
        dispatcher.ended(0, "killed")

    task = dispatcher.next()
    assert list(task.poison) == [1]
    assert sum(done) == 0
    dispatcher.finished(0)
    assert sum(done) == 4
    assert dispatcher.next().unit.unit_id == 1
    assert not dispatcher.finished(0)


def test_deaths_at_random_blame_no_row():
    dispatcher = Dispatcher(units(1, rows=100))

    for row in (5, 80, 3, 50, 7, 99):
        task = dispatcher.next()
        dispatcher.at(0, row)
        dispatcher.ended(0, "preempted")

    assert dispatcher.next().poison == {}
    assert task.one_by_one


def test_workers_that_never_get_ready_end_the_run():
    dispatcher = Dispatcher(units(1))
    dispatcher.false_start("exit code 1")
    dispatcher.ready()
    dispatcher.false_start("exit code 1")
    dispatcher.false_start("exit code 1")

    with pytest.raises(VqtokError, match="memory for one tokenizer"):
        dispatcher.false_start("signal 9")


def test_many_poison_rows_in_one_unit_are_no_poison():
    dispatcher = Dispatcher(units(1, rows=100))

    def end_all():
        for row in range(100):
            for _ in range(2):
                dispatcher.next()
                dispatcher.at(0, row)
                dispatcher.ended(0, "signal 11")

    with pytest.raises(VqtokError, match="inputs are not to blame"):
        end_all()
