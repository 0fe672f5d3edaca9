"""Which checkpoints can be trusted, and the state that transformers does not know about.

transformers writes weights, optimizer, schedule and random state; the float32 average and the
discriminator are ours. They go into one more file of the same folder, written last and moved into
place whole, so that its presence says that the checkpoint is complete.
"""

import os
import re
from pathlib import Path
from typing import Protocol

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vqtok.errors import LoadError

STATE_FILE = "vqtok_training_state.pt"


class Stateful(Protocol):
    def training_state(self) -> dict: ...

    def load_training_state(self, state: dict) -> object: ...


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end; None if there is none."""
    found = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)
        if match and (path / STATE_FILE).is_file():
            found.append((int(match.group(1)), path))
    return max(found)[1] if found else None


class CheckpointState(TrainerCallback):
    """Saves and restores the parts of a run that are not the model's.

    Args:
        parts: what to keep, by name.

    Attributes:
        resume_from: the checkpoint that the coming `train` continues; set by the trainer.
    """

    def __init__(self, parts: dict[str, Stateful]):
        self.parts = parts
        self.resume_from: Path | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if self.resume_from is None:
            return
        path = self.resume_from / STATE_FILE
        if not path.is_file():
            raise LoadError(f"{path} does not exist: that checkpoint was not written to its end.")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if set(saved) != set(self.parts):
            raise LoadError(
                f"{path} holds the state of {sorted(saved)}, but this run has "
                f"{sorted(self.parts)}: resume with the recipe that began the run."
            )
        for name, part in self.parts.items():
            part.load_training_state(saved[name])

    def on_save(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        partial = folder / f"{STATE_FILE}.partial"
        torch.save({name: part.training_state() for name, part in self.parts.items()}, partial)
        os.replace(partial, folder / STATE_FILE)
