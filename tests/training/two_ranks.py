"""Run by torchrun in test_distributed.py: trains the toy, saves what each process has."""

import sys
from pathlib import Path

import torch

from tests.training.toy import make_toy, toy_tree
from vqtok.training import parse_recipe, run


def main(folder: Path) -> None:
    run.build_model = lambda recipe: make_toy(revive_below=0.5)
    kept = []
    build = run.build_trainer
    run.build_trainer = lambda *args: (kept.append(build(*args)), kept[0])[1]
    tree = toy_tree(folder / "run", accumulation=2, batch_size=2, steps=4, save_steps=4)
    tree["losses"]["adversarial"] = {"weight": 0.1, "width": 8, "layers": 2, "lecam": 0.01}

    result = run.run_recipe(parse_recipe(tree))

    (trainer,) = kept
    state = dict(trainer.model.state_dict())
    state |= {f"adversary.{k}": v for k, v in trainer.losses.adversary.state_dict().items()}
    state |= {f"average.{k}": v for k, v in trainer.average.shadow.items()}
    rank = trainer.args.process_index
    torch.save({"state": state, "evaluation": result.evaluation}, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
