"""The training loop: transformers' Trainer, with what a vector-quantized tokenizer needs.

    model(pixels) ──▶ reconstruction ──▶ loss plug-ins ──┐
                 └──▶ out.losses["quantizer"] ───────────┴──▶ backward, clip, optimizer step
                                                              ├─ quantizer.upkeep()
                                                              ├─ discriminator step
                                                              └─ average of the parameters

Several processes, mixed precision, accumulation and resuming are accelerate's and the Trainer's.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from vqtok.errors import ConfigError
from vqtok.models.reconstruction import crop
from vqtok.training import callbacks as events
from vqtok.training.averaging import ParameterAverage
from vqtok.training.checkpoints import CheckpointState, last_complete_checkpoint
from vqtok.training.code_window import CodeWindow
from vqtok.training.evaluation import Evaluation
from vqtok.training.image_data import collate_crops
from vqtok.training.losses import LossTerms

logger = logging.getLogger(__name__)


class VQTrainer(Trainer):
    """Trains a vqtok model: `out.reconstruction` against its own input.

    Args:
        model: a VQTokenizerModel with `quantizer`, whose output has `reconstruction`, `latents`,
            `codes` and `losses["quantizer"]`.
        args: transformers' arguments; `vqtok.training.recipe` makes them from a recipe.
        train_dataset: one item a sample, in the order of the run; see `RandomCrops`.
        losses: the reconstruction losses, from `build_losses`.
        evaluation: what makes the reports; needed where `args.eval_strategy` is not "no".
        ema_decay: 0 is no averaging; the average is what gets evaluated and saved as the result.
        init_batches: how many batches' latents start the codebook; 0 leaves it to the model.
        data_collator: a list of samples to the model's arguments.
        callbacks: more of them.

    Attributes:
        average: the averaged parameters, or None.
        last_evaluation: the step of the last evaluation and what it found.
        stop_on_signal: knows whether a signal ended the run.
    """

    loss_is_scaled_for_ga = False  # the losses are means; the Trainer divides

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_dataset: Dataset,
        losses: LossTerms,
        evaluation: Evaluation | None = None,
        ema_decay: float = 0.0,
        init_batches: int = 0,
        data_collator=collate_crops,
        callbacks: list[TrainerCallback] | None = None,
    ):
        _check_arguments(args)
        has_cache_flag = "use_cache" in model.config.to_dict()
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=evaluation,  # the Trainer only looks whether there is one
            data_collator=data_collator,
            callbacks=callbacks,
        )
        if not has_cache_flag:
            del model.config.use_cache  # the Trainer writes this word of language models
        self.losses = losses.to(args.device)
        self.evaluation, self.init_batches = evaluation, init_batches
        self.average = ParameterAverage(model, ema_decay) if ema_decay else None
        self._code_window = CodeWindow(model.codebook_sizes, args.device)
        self._sums: dict[str, Tensor] = {}
        self.last_evaluation: tuple[int, dict[str, float]] = (-1, {})
        adaptive = losses.adversary is not None and losses.adversary.adaptive
        self._last_layer = _last_layer(model) if adaptive else None
        self._add_callbacks()

    def _add_callbacks(self) -> None:
        parts = {}
        self.add_callback(events.CodebookUpkeep(self.model.quantizer))
        self.add_callback(events.CodebookStart(self.start_codebook))
        if self.losses.adversary is not None:
            self.add_callback(events.AdversaryStep(self.losses.adversary))
            parts["adversary"] = self.losses.adversary
        if self.losses.balancer is not None:
            parts["balancer"] = self.losses.balancer
        if self.average is not None:
            self.add_callback(events.AverageUpdate(self.average))
            parts["average"] = self.average
        shown = ()
        if self.evaluation is not None:
            shown = self.evaluation.shown
            if examples := self.evaluation.examples(self.reconstruct, self._report_image):
                self.add_callback(examples)
        self.stop_on_signal = events.StopOnSignal()
        self.add_callback(self.stop_on_signal)
        self.add_callback(events.MetricsFile())
        for default in (PrinterCallback, ProgressCallback):
            self.remove_callback(default)
        if not self.args.disable_tqdm:
            self.add_callback(events.StderrProgress(shown))
        self._checkpoint_state = CheckpointState(parts)
        self.add_callback(self._checkpoint_state)

    # A step.

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ):
        target = inputs[self.model.main_input_name]
        out = model(target)
        ours, adversary, game = out.reconstruction, self.losses.adversary, {}
        terms = self.losses.terms(ours, target)
        playing = adversary is not None and adversary.active(self.state.global_step)
        if playing:
            with self.accelerator.autocast():
                game = adversary.generator_terms(ours, target)
        loss, named = self.losses.combine(terms, game, ours, self._last_layer)
        if playing:
            named |= self._train_discriminator(ours, target)
        loss = loss + out.losses["quantizer"]
        named |= {name: value.detach() for name, value in out.losses.items()}
        self._watch(named, out)
        return (loss, out) if return_outputs else loss

    def _train_discriminator(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The other side of the game: gradients for the discriminator's own step."""
        with self.accelerator.autocast():
            terms = self.losses.adversary.discriminator_loss(reconstruction, target)
        (terms.pop("loss") / self.current_gradient_accumulation_steps).backward()
        return {name: value.detach() for name, value in terms.items()}

    def start_codebook(self) -> None:
        """Starts the codes on the first batches; every process brings its own."""
        if not self.init_batches:
            return
        size, rank, world = self._train_batch_size, self.args.process_index, self.args.world_size
        samples, inputs = len(self.train_dataset), []
        logger.info("starting the codebook on the latents of %d batches", self.init_batches * world)
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for batch in range(rank, self.init_batches * world, world):
                indices = [i % samples for i in range(batch * size, (batch + 1) * size)]
                crops = self.data_collator([self.train_dataset[i] for i in indices])
                inputs.append(self._prepare_inputs(crops)[self.model.main_input_name])
            if hasattr(self.model, "start_codebooks"):
                # it knows better than k-means on latents
                self.model.start_codebooks(torch.cat(inputs))
            else:
                latents = [self.model.encoder(batch).float() for batch in inputs]
                self.model.quantizer.initialize(torch.cat(latents))
        self.model.train()
        if self.average is not None:
            self.average.reset()

    # The run.

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """As the Trainer's; True takes the last checkpoint that was written to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ConfigError(f"{self.args.output_dir} has no complete checkpoint to resume.")
        path = str(resume_from_checkpoint) if resume_from_checkpoint else None
        self._checkpoint_state.resume_from = Path(path) if path else None
        try:
            return super().train(resume_from_checkpoint=path, **kwargs)
        finally:
            self.stop_on_signal.restore()

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model carries the averaged parameters."""
        return self.average.applied() if self.average is not None else nullcontext()

    def evaluate(
        self,
        eval_dataset: Evaluation | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Rate, distortion and codebook health, with the averaged parameters."""
        evaluation = self.evaluation if eval_dataset is None else eval_dataset
        if evaluation is None:
            raise ConfigError("there is nothing to evaluate on: give VQTrainer an evaluation.")
        with self.averaged():
            report = evaluation.report(self.model, self.args.process_index, self.args.world_size)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in report.items()}
        self.log(metrics)
        self.last_evaluation = (self.state.global_step, metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @torch.no_grad()
    def reconstruct(self, inputs: Tensor) -> Tensor:
        """Inputs [B, C, ...] through the codes and back, with the averaged parameters."""
        was_training = self.model.training
        self.model.eval()
        with self.averaged():
            outputs = crop(self.model.decode(self.model.encode(inputs)), inputs.shape)
        self.model.train(was_training)
        return outputs

    def save_tokenizer(self, folder: str | Path) -> None:
        """The result: the model with the averaged parameters, by `save_pretrained`."""
        if self.args.should_save:
            with self.averaged():
                self.model.save_pretrained(folder)
        self.accelerator.wait_for_everyone()

    # The log.

    @torch.no_grad()
    def _watch(self, named: dict[str, Tensor], out) -> None:
        """Sums on the device; nothing is looked at before the next log."""
        latents = out.latents.detach().float()
        named["latent_norm"] = latents.norm(dim=-1).mean()
        named["batches"] = latents.new_ones(())
        for name, value in named.items():
            if name in self._sums:
                self._sums[name] += value.float()
            else:
                self._sums[name] = value.float().clone()
        self._code_window.add(out.codes)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._sums:
            logs = logs | self._drain()
        super().log(logs, start_time)

    def _drain(self) -> dict[str, float]:
        names = sorted(self._sums)
        values = torch.stack([self._sums[name] for name in names])
        if self.args.world_size > 1:
            torch.distributed.all_reduce(values)
        means = dict(zip(names, values.tolist(), strict=True))
        # a term that began inside the window (the adversary) is averaged over the whole window
        count = means.pop("batches")
        self._sums.clear()
        return {n: v / count for n, v in means.items()} | self._code_window.drain()

    def _report_image(self, name: str, image: Tensor, step: int) -> None:
        events.report_image(self.callback_handler.callbacks, name, image, step)

    # Choices that the Trainer leaves to its heirs.

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return SequentialSampler(self.train_dataset)  # the dataset is the order

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices and filters; not norms, biases or other vectors, and nothing of the codes."""
        return [
            name
            for name, p in model.named_parameters()
            if p.ndim >= 2 and "quantizer." not in name and not name.endswith("bias")
        ]

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        return 0  # the Trainer's estimate is for language models, and walks the model every step


def _check_arguments(args: TrainingArguments) -> None:
    wanted = {
        "remove_unused_columns": False,
        "ddp_broadcast_buffers": False,  # would overwrite statistics gathered by each process
        "fp16": False,  # the discriminator has no loss scaling
    }
    for name, value in wanted.items():
        if getattr(args, name) != value:
            raise ConfigError(f"VQTrainer wants {name}={value}; got {getattr(args, name)!r}.")
    if args.save_total_limit is not None and args.save_total_limit < 2:
        raise ConfigError(
            "save_total_limit must be at least 2, or None: the older checkpoint is what is left "
            f"if the newer one is interrupted; got {args.save_total_limit}."
        )


def _last_layer(model: nn.Module) -> nn.Parameter:
    """The decoder's last matrix or filter: where the adversary's weight is measured."""
    matrices = [p for p in model.decoder.parameters() if p.ndim >= 2]
    if not matrices:
        raise ConfigError("the adversarial loss wants a decoder with weights; this one has none.")
    return matrices[-1]
