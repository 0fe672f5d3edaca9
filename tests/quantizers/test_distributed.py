"""Two processes with half of the data each end with the codebook of one process with all of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.quantizers.distributed_worker import NAMES, RUNS, train

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    module = [sys.executable, "-m", "tests.quantizers.distributed_worker"]
    outs = [folder / f"{rank}.safetensors" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [*module, str(rank), "2", str(folder / "rendezvous"), str(out)],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()  # one rank that failed leaves the other waiting
    assert [process.returncode for process in processes] == [0, 0], errors
    return [load_file(out) for out in outs]


def of(states, name, run):
    prefix = f"{name}/{run}/"
    return {k.removeprefix(prefix): v for k, v in states.items() if k.startswith(prefix)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", RUNS)
def test_both_ranks_end_with_the_same_state(two_ranks, name, run):
    first, second = (of(states, name, run) for states in two_ranks)

    assert first
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_equal_one_process(two_ranks, name):
    alone = train(name, None, **RUNS["plain"])

    for key, value in of(two_ranks[0], name, "plain").items():
        torch.testing.assert_close(value, alone[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", ["random", "split"])
def test_revival_happens_on_two_ranks(two_ranks, name, run):
    plain, revived = of(two_ranks[0], name, "plain"), of(two_ranks[0], name, run)

    assert any(not torch.equal(plain[k], revived[k]) for k in plain if k.endswith(".codes"))
