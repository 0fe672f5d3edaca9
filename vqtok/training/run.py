"""A recipe carried out: build the parts, train or resume, evaluate, save the tokenizer."""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, TrainingArguments, set_seed

from vqtok.errors import ConfigError
from vqtok.models.auto import AutoVQTokenizer
from vqtok.models.base import VQTokenizerModel
from vqtok.models.fingerprint import SHARED_FIELDS
from vqtok.models.registration import Family
from vqtok.training.checkpoints import last_complete_checkpoint
from vqtok.training.losses import build_losses
from vqtok.training.modalities import TASKS
from vqtok.training.recipe import Recipe, family_of, refuse_unknown
from vqtok.training.recipe_sections import ModelSection
from vqtok.training.trainer import VQTrainer

logger = logging.getLogger(__name__)

RECIPE_FILE, REPORT_FILE, TOKENIZER_FOLDER = "recipe.yaml", "evaluation.json", "tokenizer"
SCHEDULES = {
    "cosine": "cosine_with_min_lr",
    "linear": "linear",
    "constant": "constant_with_warmup",
}


@dataclasses.dataclass
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
            model; a value of the recipe that cannot be.
        LoadError: model.from_pretrained names no tokenizer.
        InputError: an item of the data cannot be read; the message names it.
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
    _check_same_run(recipe, output)
    trainer = build_trainer(recipe, arguments)
    if arguments.process_index == 0:
        # not before the parts are built: a recipe that cannot be is nothing to go on from
        output.mkdir(parents=True, exist_ok=True)
        _write(output / RECIPE_FILE, yaml.safe_dump(recipe.as_dict(), sort_keys=False))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    step = trainer.state.global_step
    if trainer.stop_on_signal.stopped:
        return RunResult("interrupted", step, str(output), None, {})
    report = {"step": step}
    if trainer.evaluation is not None:
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
    """Everything a recipe names, put together; reads the data."""
    set_seed(recipe.training.seed)
    model = build_model(recipe)
    losses = build_losses(recipe.losses)
    training, task = recipe.training, TASKS[recipe.modality]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"{type(model).__name__} with this configuration has no weights to train by steps: "
            "give it layers, or let `fit` find its codebooks."
        )
    samples = training.steps * training.batch_size * training.accumulation * arguments.world_size
    stream = task.data(model, recipe.data, samples, training.seed)
    reported = recipe.evaluation.source is not None
    init_batches = training.init_batches
    if init_batches is None:
        init_batches = 0 if recipe.model.from_pretrained else 8
    return VQTrainer(
        model=model,
        args=arguments,
        train_dataset=stream,
        losses=losses,
        data_collator=task.collate,
        evaluation=task.evaluation(model, recipe.evaluation) if reported else None,
        ema_decay=training.ema_decay,
        init_batches=init_batches,
    )


def build_model(recipe: Recipe) -> VQTokenizerModel:
    """A fresh model of a preset, or the tokenizer that the recipe goes on from; on the CPU.

    Raises:
        ConfigError: a type, preset or override that cannot be, or a tokenizer of another type.
        LoadError: `from_pretrained` names no tokenizer.
    """
    section = recipe.model
    family = family_of(section.type)
    if section.from_pretrained is None:
        return family.model_class(build_config(family, section))
    model = AutoVQTokenizer.from_pretrained(section.from_pretrained, device="cpu")
    if not isinstance(model, family.model_class):
        raise ConfigError(
            f"model.from_pretrained holds a {type(model).__name__}, but model.type asks for a "
            f"{family.model}: only a tokenizer of that type can be trained on."
        )
    return model


def build_config(family: Family, section: ModelSection) -> PreTrainedConfig:
    """The preset with its overrides; a name that the configuration lacks is refused."""
    config_class = family.config_class
    # transformers keeps unknown names, and writes them where no one can load them
    known = {field.name for field in dataclasses.fields(config_class)} - SHARED_FIELDS
    refuse_unknown(section.overrides, known, "model.overrides")
    try:
        if section.preset is None:  # the recipe's check knows whether there are any
            return config_class(**section.overrides)
        return config_class.preset(section.preset, **section.overrides)
    except StrictDataclassError as error:
        raise ConfigError(f"model.overrides cannot be: {error.__cause__ or error}") from error


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


def _check_same_run(recipe: Recipe, output: Path) -> None:
    """Refuses to continue a run of another model or loss; warns of other changes."""
    path = output / RECIPE_FILE
    if not path.exists():
        return
    before, now = yaml.safe_load(path.read_text(encoding="utf-8")), recipe.as_dict()
    for section in ("model", "losses"):
        if before[section] != now[section]:
            raise ConfigError(
                f"{output} is a run with {section} {before[section]}, but the recipe has "
                f"{now[section]}: resume with the same, or choose another output."
            )
    changed = [k for k in ("data", "training", "evaluation") if before[k] != now[k]]
    if changed:
        logger.warning("the recipe's %s changed since the run began", ", ".join(changed))


def _write(path: Path, text: str) -> None:
    """All of it or nothing: other processes look at these files."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
