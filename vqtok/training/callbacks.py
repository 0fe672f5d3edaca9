"""What happens around the optimizer steps of a run: upkeep, averages, signals, logs, pictures."""

import json
import logging
import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import ProgressCallback, TrainerCallback

from vqtok.errors import VqtokError
from vqtok.metrics.image import to_uint8
from vqtok.quantizers.base import Quantizer
from vqtok.training.adversarial import Adversary
from vqtok.training.averaging import ParameterAverage
from vqtok.training.image_data import to_pixel_values

logger = logging.getLogger(__name__)


class CodebookUpkeep(TrainerCallback):
    """The codebook moves once per optimizer step, on all its micro-batches together."""

    def __init__(self, quantizer: Quantizer):
        self.quantizer = quantizer

    def on_train_begin(self, args, state, control, **kwargs):
        self.quantizer.set_deferred_upkeep(True)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.quantizer.upkeep()

    def on_train_end(self, args, state, control, **kwargs):
        self.quantizer.set_deferred_upkeep(False)


class CodebookStart(TrainerCallback):
    """Before the first step of a fresh run: start the codes on real latents."""

    def __init__(self, start: Callable[[], None]):
        self.start = start

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.start()


class AverageUpdate(TrainerCallback):
    def __init__(self, average: ParameterAverage):
        self.average = average

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.average.update()


class AdversaryStep(TrainerCallback):
    """The discriminator takes its step beside the model's."""

    def __init__(self, adversary: Adversary):
        self.adversary = adversary

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.adversary.step()


class StopOnSignal(TrainerCallback):
    """SIGTERM or SIGINT: finish the step, save a checkpoint, stop. A second one kills.

    With several processes, they agree every `logging_steps` steps whether to stop: one of them
    alone would leave the others waiting.

    Attributes:
        stopped: True after a run that a signal ended.
    """

    def __init__(self):
        self.stopped = False
        self._asked = False
        self._handlers: dict[int, object] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.stopped = self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._handlers[number] = signal.signal(number, self._ask)
            except ValueError:  # only the main thread may; a trainer in another one lives without
                logger.info("not in the main thread: signals do not save a checkpoint")

    def on_step_end(self, args, state, control, **kwargs):
        if self._agreed(args, state) and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

    def restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _ask(self, number, frame) -> None:
        logger.warning("signal %d: saving a checkpoint after this step; again to kill", number)
        self._asked = True
        self.restore()

    def _agreed(self, args, state) -> bool:
        if args.world_size == 1:
            return self._asked
        if state.global_step % state.logging_steps:
            return False
        asked = torch.tensor(float(self._asked), device=args.device)
        torch.distributed.all_reduce(asked)
        return bool(asked.item())


class StderrProgress(ProgressCallback):
    """The Trainer's bar; its log lines go to stderr with it, stdout stays the caller's."""

    SHOWN = ("loss", "psnr", "learning_rate", "codebook0_usage")

    def __init__(self, evaluated: Sequence[str] = ()):
        """`evaluated` are names of a report that are shown too."""
        super().__init__()
        self.shown = (*self.SHOWN, *(f"eval_{name}" for name in evaluated))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        shown = {k: logs[k] for k in self.shown if k in logs} or logs
        line = "  ".join(f"{k} {_short(v)}" for k, v in shown.items())
        self.training_bar.write(f"step {state.global_step}: {line}", file=sys.stderr)


class MetricsFile(TrainerCallback):
    """Every log as one JSON line in `metrics.jsonl` of the run's folder.

    Raises:
        VqtokError: the loss is not a number; going on would only overwrite good checkpoints.
    """

    FILE = "metrics.jsonl"

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise VqtokError(
                f"the loss is {loss} at step {state.global_step}: lower training.lr, raise "
                "training.warmup_steps or use precision fp32, and resume from the last checkpoint."
            )
        if logs and state.is_world_process_zero:
            with (Path(args.output_dir) / self.FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class ReconstructionGrid(TrainerCallback):
    """After each evaluation: the first images over their reconstructions, to the reporters.

    Args:
        images: uint8 [N, 3, H, W].
        reconstruct: pixel values [N, 3, H, W] to pixel values, with the averaged weights.
        report: called with a name, a uint8 [3, h, w] picture and the step.
    """

    def __init__(
        self,
        images: Tensor,
        reconstruct: Callable[[Tensor], Tensor],
        report: Callable[[str, Tensor, int], None],
    ):
        self.images, self.reconstruct, self.report = images, reconstruct, report

    def on_evaluate(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        pixels = to_pixel_values(self.images).to(args.device)
        ours = to_uint8(self.reconstruct(pixels)).cpu()
        rows = [torch.cat(list(row), dim=2) for row in (self.images, ours)]
        self.report("reconstructions", torch.cat(rows, dim=1), state.global_step)


class ReconstructionSounds(TrainerCallback):
    """After each evaluation: the first sounds and their reconstructions, as FLAC in `sounds/`.

    Args:
        sounds: float32 [C, T] each.
        reconstruct: input values [1, C, T] to the same, with the averaged weights.
        sample_rate_hz: of both.
    """

    FOLDER = "sounds"

    def __init__(
        self,
        sounds: Sequence[Tensor],
        reconstruct: Callable[[Tensor], Tensor],
        sample_rate_hz: int,
    ):
        self.sounds, self.reconstruct, self.sample_rate_hz = sounds, reconstruct, sample_rate_hz

    def on_evaluate(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / self.FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for number, sound in enumerate(self.sounds):
            ours = self.reconstruct(sound[None].to(args.device))[0].float().cpu()
            self._write(folder / f"{number}.flac", sound)
            self._write(folder / f"{number}-step{state.global_step}.flac", ours)

    def _write(self, path: Path, sound: Tensor) -> None:
        import soundfile

        soundfile.write(path, sound.clamp(-1, 1).T.numpy(), self.sample_rate_hz)


def report_image(callbacks: list[TrainerCallback], name: str, image: Tensor, step: int) -> None:
    """uint8 [3, h, w] to TensorBoard and Weights & Biases, where the Trainer has them."""
    for callback in callbacks:
        writer = getattr(callback, "tb_writer", None)
        if writer is not None:
            writer.add_image(name, image, step)
        wandb = getattr(callback, "_wandb", None)
        if wandb is not None and wandb.run is not None:
            picture = wandb.Image(image.permute(1, 2, 0).numpy())
            wandb.log({name: picture, "train/global_step": step})


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
