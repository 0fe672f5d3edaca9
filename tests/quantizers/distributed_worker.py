"""One rank of the two that test_distributed.py starts: trains on its share and saves the state.

Usage: python distributed_worker.py RANK WORLD RENDEZVOUS OUT
"""

import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.quantizers.cases import build, draw

NAMES = (
    "vq", "vq-gradient", "vq-unit", "vq-factorized", "residual", "residual-unit",
    "residual-unit-gradient", "spatial",
)  # fmt: skip
STEPS = 4
# the shares of both ranks: unequal, and one step in which rank 1 has nothing that counts
SHARES = [[3, 3], [2, 4], [4, 2], [5, 1]]
RUNS = {
    "plain": {"revive_below": 0.0},
    "random": {"revive_below": 0.9},
    "split": {"revive_below": 0.9, "revive_by": "split"},
}


def train(name: str, rank: int | None, **changes: object) -> dict[str, torch.Tensor]:
    """State after a few steps on this rank's share of the batches, or on all of them."""
    torch.manual_seed(0)  # the maps of factorized codebooks
    quantizer = build(name, **changes).train()
    for codebook in quantizer.learned_codebooks():
        codebook.decay = 0.5  # a few steps have to matter, also to a kind that fixes the decay
    quantizer.set_deferred_upkeep(True)
    torch.manual_seed(0 if rank is None else rank)  # rank 0 draws for all
    for step in range(STEPS):
        latents = draw(batch=6, height=9, width=9, seed=step)
        mask = torch.rand(latents.shape[:-1], generator=torch.Generator().manual_seed(step)) > 0.3
        if step == STEPS - 1:
            mask[SHARES[step][0] :] = False
        if rank is not None:
            latents = latents.split(SHARES[step])[rank]
            mask = mask.split(SHARES[step])[rank]
        quantizer(latents, mask)
        quantizer.upkeep()
    return {key: value.detach().clone() for key, value in quantizer.state_dict().items()}


def main() -> None:
    rank, world, rendezvous, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    states = {}
    for name in NAMES:
        for run, changes in RUNS.items():
            for key, value in train(name, rank, **changes).items():
                states[f"{name}/{run}/{key}"] = value
    save_file(states, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
