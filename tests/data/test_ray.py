"""The same run on Ray actors, whose nodes are killed in the middle and whose processes stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.fake_crashes import EndsOnOne, StopsOnOne, Waits
from tests.data.rows import rows_of
from vqtok.data import Execution, TokenizeReport, tokenize_dataset, verify_run
from vqtok.errors import ConfigError

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
IMAGES = [png(index) for index in range(40)]
SECONDS = 150.0  # for something to happen on a busy machine

on_ray = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # of ray's own
]


@pytest.fixture
def images(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for index, image in enumerate(IMAGES):
        (tmp_path / f"images/{index:02d}.png").write_bytes(image)
    return tmp_path / "images"


@pytest.fixture
def digest(images, tmp_path) -> str:
    """Of the rows of a run that nothing disturbed."""
    tokenize_dataset(images, tmp_path / "clean", FakeTokenizer(), unit_rows=4)
    return verify_run(tmp_path / "clean").rows_digest


def test_a_machine_without_ray_says_what_to_install(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(ConfigError, match=r"vqtok\[ray\]"):
        tokenize_dataset(images, tmp_path / "out", FakeTokenizer(), executor="ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator:
    """A head without workers, and two nodes with one processor each."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 << 20}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


class Beside(threading.Thread):
    """A run beside the test, which has the main thread: Ray adds nodes nowhere else."""

    def __init__(self, run: Callable[[], TokenizeReport]):
        super().__init__()
        self.work = run
        self.report: TokenizeReport | None = None
        self.start()

    def run(self) -> None:
        self.report = self.work()


class TestOnRay:
    pytestmark = on_ray

    def test_nodes_killed_one_and_then_all_cost_no_row(
        self, images, tmp_path, cluster, digest, caplog
    ):
        """Both actors are amid a unit when the first node goes, and so is the one that stays."""
        out, marks = tmp_path / "out", tmp_path

        def waiting() -> int:
            return len(list(marks.glob("waiting-*")))

        options = {"unit_rows": 4, "executor": Execution("ray", 2, stall_timeout=600.0)}
        run = Beside(partial(tokenize_dataset, images, out, Waits(marks, IMAGES[:20]), **options))
        try:
            until(lambda: waiting() == 2)
            first, second = cluster.worker_nodes
            cluster.remove_node(first, allow_graceful=False)
            until(lambda: caplog.text.count("a worker ended at row") == 1)
            cluster.remove_node(second, allow_graceful=False)
            until(lambda: caplog.text.count("a worker ended at row") == 2)
        finally:
            (marks / "go").touch()
            cluster.add_node(**NODE)
        cluster.add_node(**NODE)
        run.join()

        verified = verify_run(out)
        assert verified.problems == []
        assert verified.rows_digest == digest
        assert (run.report.rows, run.report.bad) == (40, 0)

    def test_an_actor_that_stops_is_replaced_and_wakes_up_in_vain(
        self, images, tmp_path, cluster, digest, caplog
    ):
        out, marks = tmp_path / "out", tmp_path
        execution = Execution("ray", workers=1, stall_timeout=3.0)

        tokenize_dataset(images, out, StopsOnOne(marks), unit_rows=4, executor=execution)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        try:
            os.kill(int((marks / "stopped").read_text()), signal.SIGCONT)
            time.sleep(0.5)
        except ProcessLookupError:
            pass  # ray has killed it for good

        verified = verify_run(out)
        assert "no step for 3 seconds" in caplog.text
        assert verified.problems == []
        assert verified.rows_digest == digest
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    def test_an_input_that_ends_its_actors_becomes_a_row(self, images, tmp_path, cluster):
        execution = Execution("ray", workers=1, stall_timeout=60.0)

        tokenize_dataset(images, tmp_path / "out", EndsOnOne(), unit_rows=20, executor=execution)

        (bad,) = [row for row in rows_of(tmp_path / "out") if row["status"] != "ok"]
        assert (bad["src"], bad["status"]) == ("05.png", "crash")
        assert verify_run(tmp_path / "out").problems == []
