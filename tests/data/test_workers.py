"""Several workers: the same rows, whatever ends them, and whenever."""

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.killable import EXIT_CODE, KILLED, KillableRuns
from tests.data.rows import codes_of, rows_of
from vqtok.data import Execution, tokenize_dataset, verify_run
from vqtok.data.dispatch import Dispatcher
from vqtok.data.jobs import pickled
from vqtok.data.plan import Unit
from vqtok.data.publish import LocalStore
from vqtok.data.sources import Segment
from vqtok.errors import ConfigError, FingerprintError, VqtokError


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


ENDS = {"EndsOnOne": "exit code 139", "KilledOnOne": "signal 9", "SleepsOnOne": "no sign of life"}


@pytest.mark.parametrize("tokenizer", ENDS)
def test_an_input_that_ends_its_workers_becomes_a_row(
    many, tmp_path, clean, run_process, tokenizer
):
    out = tmp_path / "out"

    code = run_process(many, out, tokenizer=tokenizer, workers=2, unit_rows=10, stall_timeout=1.0)

    (bad,) = [row for row in rows_of(out) if row["status"] != "ok"]
    assert code == 0
    assert (bad["src"], bad["status"]) == ("05.png", "crash")
    assert ENDS[tokenizer] in bad["error"]
    good = [row[1:6] for row in codes_of(out) if row[1] != "05.png"]
    assert good == [row[1:6] for row in clean[0] if row[1] != "05.png"]
    assert verify_run(out).problems == []


def test_an_input_that_kills_a_run_of_one_worker_is_found_by_two(
    many, tmp_path, clean, run_process
):
    out, more = tmp_path / "out", {"tokenizer": "KilledOnOne", "unit_rows": 10}

    alone = [run_process(many, out, resume=bool(i), **more) for i in range(2)]
    told = run_process.log.read_text()
    found = run_process(many, out, resume=True, workers=2, **more)

    assert [*alone, found] == [KILLED, KILLED, 0]
    assert "was killed or crashed; if an input did that, more than one worker" in told
    assert [row["src"] for row in rows_of(out) if row["status"] == "crash"] == ["05.png"]
    assert verify_run(out).problems == []


def test_a_worker_that_was_stopped_is_replaced(many, tmp_path, clean, run_process):
    out = tmp_path / "out"

    code = run_process(many, out, tokenizer="Slow", workers=2, stall_timeout=1.0, kill=["stop", 2])

    assert code == 0
    assert codes_of(out) == clean[0]


def test_a_run_goes_on_when_all_its_workers_are_killed(many, tmp_path, clean, run_process):
    code = run_process(many, tmp_path / "out", tokenizer="Slow", workers=3, kill=["workers", 2])

    assert code == 0
    assert codes_of(tmp_path / "out") == clean[0]


# alone, it stops itself amid unit 1; the workers of a driver that is stopped are both at a unit
@pytest.mark.parametrize(
    ("workers", "tokenizer", "kill"), [(1, "StopsOnOne", ["itself", 1]), (2, "Slow", ["pause", 2])]
)
def test_what_a_zombie_brings_after_others_published_it_is_thrown_away(
    many, tmp_path, clean, run_process, workers, tokenizer, kill
):
    out, report = tmp_path / "out", tmp_path / "report.json"
    published = tmp_path / "published"  # as it was when the zombie woke up

    code = run_process(
        many, out, tokenizer=tokenizer, workers=workers, share=[0, 1], report=str(report),
        kill=kill, meanwhile={"share": [0, 1], "copy_to": str(published)},
    )  # fmt: skip

    told = json.loads(report.read_text())
    assert code == 0
    assert 1 <= told["lost_races"] <= workers
    assert told["missing_units"] == 0
    data = {path.name: path.read_bytes() for path in (published / "data").iterdir()}
    assert {path.name: path.read_bytes() for path in (out / "data").iterdir()} == data
    assert (out / "vqtok.json").read_bytes() == (published / "vqtok.json").read_bytes()
    assert codes_of(out) == clean[0]
    assert verify_run(out).problems == []


def test_a_driver_that_was_stopped_keeps_others_out_and_goes_on(many, tmp_path, clean, run_process):
    out = tmp_path / "out"

    code = run_process(
        many, out, tokenizer="Slow", kill=["pause", 2],
        meanwhile={"resume": True, "may_fail": True, "report": str(tmp_path / "second")},
    )  # fmt: skip

    assert code == 0
    assert not (tmp_path / "second").exists()
    assert re.search(r"right now \(process \d+ on .*\); wait", run_process.log.read_text())
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
    out, reports = tmp_path / "out", [tmp_path / "all.json", tmp_path / "half.json"]

    run_process(
        many, out, tokenizer="Slow", share=[0, 1], report=str(reports[0]), kill=["", 0],
        meanwhile={"share": [1, 2], "tokenizer": "Slow", "report": str(reports[1])},
    )  # fmt: skip

    told = [json.loads(report.read_text()) for report in reports]
    assert told[0]["missing_units"] == 0
    assert all(report["lost_races"] <= 5 for report in told)  # of the five that both may make
    assert codes_of(out) == clean[0]
    assert verify_run(out).rows_digest == clean[1]


def test_tasks_that_begin_at_once_agree_on_the_plan_of_one(many, tmp_path, monkeypatch):
    """The second looks for a run just before the first writes it down, and has other options."""
    half = Execution("shard", task_index=0, num_tasks=2)
    publish = LocalStore.publish

    def late(store, name, data, unit=None):
        if name == ".vqtok/run.json":
            monkeypatch.setattr(LocalStore, "publish", publish)
            tokenize_dataset(many, tmp_path / "out", FakeTokenizer(), unit_rows=4, executor=half)
        return publish(store, name, data, unit)

    monkeypatch.setattr(LocalStore, "publish", late)
    with pytest.raises(ConfigError, match="unit_rows"):
        tokenize_dataset(many, tmp_path / "out", FakeTokenizer(), unit_rows=5, executor=half)

    other = Execution("shard", task_index=1, num_tasks=2)
    report = tokenize_dataset(many, tmp_path / "out", FakeTokenizer(), executor=other)
    assert (report.missing_units, report.units) == (0, 10)
    assert verify_run(tmp_path / "out").problems == []


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


def test_a_unit_that_somebody_else_published_is_not_given_out():
    done, published = [], []
    dispatcher = Dispatcher(units(3), done.append, lambda unit: unit.unit_id in published)

    first = dispatcher.next()
    published.append(1)
    second = dispatcher.next()

    assert (first.unit.unit_id, second.unit.unit_id) == (0, 2)
    assert (sum(done), dispatcher.unfinished) == (4, 2)


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
