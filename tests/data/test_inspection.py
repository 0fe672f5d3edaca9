"""Plan and status: what they say is so."""

import json

import pytest

from tests.data.fake import FakeTokenizer
from vqtok.data import plan_dataset, run_status, tokenize_dataset
from vqtok.data.publish import LocalStore
from vqtok.errors import FormatError

FIRST = "data/train-00000-of-00003.parquet"


@pytest.fixture
def run(photos, tmp_path):
    tokenize_dataset(photos, tmp_path / "out", FakeTokenizer(), unit_rows=4)
    return tmp_path / "out"


def test_a_plan_is_what_tokenize_will_do(photos, run):
    plan = plan_dataset(photos, unit_rows=4)

    stored = json.loads((run / ".vqtok/run.json").read_text())
    assert (plan.rows, plan.units, plan.ignored) == (10, 3, 2)
    assert plan.plan_hash == stored["plan_hash"]


def test_status_counts_what_is_published(run):
    finished = run_status(run)
    (run / "vqtok.json").unlink()
    (run / FIRST).unlink()
    (run / ".vqtok/commits/00000.json").unlink()
    with LocalStore(run).lock():
        running = run_status(run)
    stopped = run_status(run)

    assert (finished.finished, finished.units_done, finished.rows_done) == (True, 3, 10)
    assert (running.running, running.units_done, running.rows_done) == (True, 2, 6)
    assert (stopped.running, stopped.next_missing) == (False, [0])
    assert "--resume" in stopped.summary()


@pytest.mark.parametrize("text", ["{", "[]", '{"unit": 1}', '{"unit": "1"}'])
def test_a_damaged_commit_is_named(run, text):
    (run / ".vqtok/commits/00001.json").write_text(text)

    with pytest.raises(FormatError, match=r"commits/00001\.json"):
        run_status(run)


def test_status_of_a_run_that_has_not_published_anything(run):
    (run / "vqtok.json").unlink()
    for path in [*run.glob("data/*"), *run.glob(".vqtok/commits/*")]:
        path.unlink()

    status = run_status(run)

    assert (status.units_done, status.rows_done, status.tokens) == (0, 0, 0)
    assert status.next_missing == [0, 1, 2]
