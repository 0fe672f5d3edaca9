"""The same run on Ray actors, one of whose nodes is killed in the middle."""

import sys
import threading
import time

import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.fake_crashes import EndsOnOne, Slow
from tests.data.rows import rows_of
from vqtok.data import Execution, tokenize_dataset, verify_run
from vqtok.errors import ConfigError

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(40):
        (tmp_path / f"images/{index:02d}.png").write_bytes(png(index))
    return tmp_path / "images"


def test_a_machine_without_ray_says_what_to_install(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(ConfigError, match=r"vqtok\[ray\]"):
        tokenize_dataset(images, tmp_path / "out", FakeTokenizer(), executor="ray")


@pytest.fixture
def cluster(monkeypatch):
    """A head without workers, and two nodes with one processor each."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of ray's own
def test_a_node_killed_in_the_middle_costs_no_row(images, tmp_path, cluster):
    system, nodes = cluster
    out = tmp_path / "out"
    tokenize_dataset(images, tmp_path / "clean", FakeTokenizer(), unit_rows=4)

    def kill_and_replace():
        while len(list(out.glob("data/*.parquet"))) < 2:
            time.sleep(0.01)
        system.remove_node(nodes[0], allow_graceful=False)
        system.add_node(**NODE)

    killer = threading.Thread(target=kill_and_replace)
    killer.start()
    execution = Execution("ray", workers=2, stall_timeout=60.0)
    tokenize_dataset(images, out, Slow(), unit_rows=4, executor=execution)
    killer.join()
    verified, clean = verify_run(out), verify_run(tmp_path / "clean")
    assert verified.problems == []
    assert verified.rows_digest == clean.rows_digest


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of ray's own
def test_an_input_that_ends_its_actors_becomes_a_row(images, tmp_path, cluster):
    execution = Execution("ray", workers=1, stall_timeout=60.0)

    tokenize_dataset(images, tmp_path / "out", EndsOnOne(), unit_rows=20, executor=execution)

    (bad,) = [row for row in rows_of(tmp_path / "out") if row["status"] != "ok"]
    assert (bad["src"], bad["status"]) == ("05.png", "crash")
    assert verify_run(tmp_path / "out").problems == []
