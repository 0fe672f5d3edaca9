"""A recipe carried out: build the parts, train or resume, evaluate, save the tokenizer."""

import importlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import TrainingArguments, set_seed

from vqtok.errors import ConfigError
from vqtok.training.checkpoints import last_complete_checkpoint
from vqtok.training.image_data import ImageStore, RandomCrops, centre_squares
from vqtok.training.losses import build_losses
from vqtok.training.recipe import Recipe
from vqtok.training.trainer import VQTrainer

logger = logging.getLogger(__name__)

RECIPE_FILE, REPORT_FILE, TOKENIZER_FOLDER = "recipe.yaml", "evaluation.json", "tokenizer"
# model.type, a folder of vqtok.models, to its configuration and model classes
MODELS = {"vim_vq": ("VimVQConfig", "VimVQModel")}
SCHEDULES = {
    "cosine": "cosine_with_min_lr",
    "linear": "linear",
    "constant": "constant_with_warmup",
}


@dataclass
class RunResult:
    """What `run_recipe` hands back.

    Attributes:
        status: "finished", "interrupted" (a checkpoint is there, resume), or "already_finished".
        step: optimizer steps done.
        tokenizer: the folder for `AutoVQTokenizer.from_pretrained`; None while unfinished.
        evaluation: the contents of evaluation.json.
    """

    status: str
    step: int
    output: str
    tokenizer: str | None
    evaluation: dict[str, Any]


def run_recipe(recipe: Recipe) -> RunResult:
    """Train a tokenizer. The same recipe with `resume` continues, or finds the run finished.

    Raises:
        ConfigError: the output folder has a run and `resume` is off, or it has a run of another
            model.
    """
    output = Path(recipe.output)
    checkpoint = last_complete_checkpoint(output) if output.is_dir() else None
    report_path = output / REPORT_FILE
    if not recipe.resume and (checkpoint is not None or report_path.exists()):
        raise ConfigError(
            f"{output} already holds a run: continue it with --resume, or choose another output."
        )
    if report_path.exists():
        report = json.loads(report_path.read_text(encoding="utf-8"))
        if report["step"] >= recipe.training.steps:
            folder = str(output / TOKENIZER_FOLDER)
            return RunResult("already_finished", report["step"], str(output), folder, report)
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    arguments = training_arguments(recipe)
    _keep_recipe(recipe, output, is_main=arguments.process_index == 0)

    trainer = build_trainer(recipe, arguments)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    step = trainer.state.global_step
    if trainer.stop_on_signal.stopped:
        return RunResult("interrupted", step, str(output), None, {})
    report = {"step": step}
    if trainer.eval_images is not None:
        if trainer.last_evaluation[0] != step:
            trainer.evaluate()
        metrics = trainer.last_evaluation[1]
        report |= {k.removeprefix("eval_"): v for k, v in metrics.items() if k != "epoch"}
    folder = output / TOKENIZER_FOLDER
    trainer.save_tokenizer(folder)
    if trainer.args.process_index == 0:
        _write(report_path, json.dumps(report, indent=2) + "\n")
    return RunResult("finished", step, str(output), str(folder), report)


def build_trainer(recipe: Recipe, arguments: TrainingArguments) -> VQTrainer:
    """Everything a recipe names, put together; reads the images."""
    set_seed(recipe.training.seed)
    model = build_model(recipe)
    losses = build_losses(recipe.losses)
    training, data, evaluation = recipe.training, recipe.data, recipe.evaluation
    store = ImageStore(data.source, data.column, data.limit, data.memory_mb)
    samples = training.steps * training.batch_size * training.accumulation * arguments.world_size
    crops = RandomCrops(
        store, samples, data.crop, training.seed, (data.scale[0], data.scale[1]), data.flip
    )
    eval_images = None
    if evaluation.source is not None:
        # encoded until it is their turn: only the small squares stay
        originals = ImageStore(evaluation.source, evaluation.column, evaluation.limit, 0)
        eval_images = centre_squares(originals, evaluation.size)
    init_batches = training.init_batches
    if init_batches is None:
        init_batches = 0 if recipe.model.from_pretrained else 8
    return VQTrainer(
        model=model,
        args=arguments,
        train_dataset=crops,
        losses=losses,
        eval_images=eval_images,
        ema_decay=training.ema_decay,
        init_batches=init_batches,
    )


def build_model(recipe: Recipe) -> nn.Module:
    section = recipe.model
    if section.type not in MODELS:
        raise ConfigError(f"model.type is one of {sorted(MODELS)}; got {section.type!r}.")
    config_name, model_name = MODELS[section.type]
    folder = f"vqtok.models.{section.type}"
    modeling = importlib.import_module(f"{folder}.modeling_{section.type}")
    model_class = getattr(modeling, model_name)
    if section.from_pretrained is not None:
        return model_class.from_pretrained(section.from_pretrained)
    configuration = importlib.import_module(f"{folder}.configuration_{section.type}")
    config = getattr(configuration, config_name).preset(section.preset, **section.overrides)
    return model_class(config)


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The Trainer's arguments for a recipe."""
    training = recipe.training
    use_cpu = training.device == "cpu" or not torch.accelerator.is_available()
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    minimum = {"min_lr": training.lr_min} if training.schedule == "cosine" else None
    return TrainingArguments(
        output_dir=recipe.output,
        max_steps=training.steps,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=recipe.evaluation.batch_size,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.lr,
        lr_scheduler_type=SCHEDULES[training.schedule],
        lr_scheduler_kwargs=minimum,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        adam_beta1=training.betas[0],
        adam_beta2=training.betas[1],
        max_grad_norm=training.grad_clip,
        bf16=training.precision == "bf16",
        use_cpu=use_cpu,
        seed=training.seed,
        logging_steps=training.log_steps,
        logging_nan_inf_filter=False,  # looks at the loss every step; MetricsFile looks at the log
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=training.keep_checkpoints,
        eval_strategy="steps" if training.eval_steps else "no",
        eval_steps=training.eval_steps or None,
        report_to=training.report_to or "none",
        dataloader_num_workers=recipe.data.workers,
        dataloader_persistent_workers=recipe.data.workers > 0,
        dataloader_pin_memory=not use_cpu,
        remove_unused_columns=False,
        ddp_backend="gloo" if use_cpu and several else None,
        ddp_broadcast_buffers=False,
    )


def _keep_recipe(recipe: Recipe, output: Path, is_main: bool) -> None:
    """Write the recipe beside the run; refuse to continue a run of another model or loss."""
    path = output / RECIPE_FILE
    now = recipe.as_dict()
    if path.exists():
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section in ("model", "losses"):
            if before[section] != now[section]:
                raise ConfigError(
                    f"{output} is a run with {section} {before[section]}, but the recipe has "
                    f"{now[section]}: resume with the same, or choose another output."
                )
        changed = [k for k in ("data", "training", "evaluation") if before[k] != now[k]]
        if changed:
            logger.warning("the recipe's %s changed since the run began", ", ".join(changed))
    if is_main:
        output.mkdir(parents=True, exist_ok=True)
        _write(path, yaml.safe_dump(now, sort_keys=False))


def _write(path: Path, text: str) -> None:
    """All of it or nothing: other processes look at these files."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
