import os
import subprocess
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[2]


def test_two_processes_end_with_the_same_weights_codes_and_adversary(tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(Path(__file__).with_name("two_ranks.py")), str(tmp_path),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)

    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert first["evaluation"] == second["evaluation"]
    assert first["state"].keys() == second["state"].keys()
    differing = [
        k for k in first["state"] if not torch.equal(first["state"][k], second["state"][k])
    ]
    assert differing == []
    assert (tmp_path / "run" / "tokenizer" / "model.safetensors").is_file()
