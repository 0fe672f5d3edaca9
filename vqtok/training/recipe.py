"""A training run as a YAML file: every key known, every value typed, nothing ignored.

    model: {preset: tiny, overrides: {quantizer_config: {kind: vq, codebook_size: 4096}}}
    data: {source: photos/train.parquet, crop: 128}
    losses: {l1: 0.2, l2: 1.0}
    training: {steps: 20000, batch_size: 16, lr: 1.0e-3}
    evaluation: {source: kodak}
    output: runs/tiny

`key=value` overrides use dots: `training.lr=5e-4 losses.adversarial.weight=0.1`.
"""

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from vqtok.errors import ConfigError


@dataclass
class ModelSection:
    """A preset with overrides of its configuration, or a tokenizer to go on from."""

    type: str = "vim_vq"
    preset: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    from_pretrained: str | None = None

    def check(self) -> None:
        if (self.preset is None) == (self.from_pretrained is None):
            raise ConfigError("model wants either preset or from_pretrained, and not both.")
        if self.from_pretrained is not None and self.overrides:
            raise ConfigError("model.overrides change a preset; a loaded tokenizer is as it is.")


@dataclass
class DataSection:
    """Where images come from and how they are cropped; see `ImageStore` and `RandomCrops`."""

    source: str = ""
    column: str = "image"
    limit: int | None = None
    memory_mb: int = 4096
    crop: int = 128
    scale: list[float | None] = field(default_factory=lambda: [1.0, None])
    flip: bool = True
    workers: int = 0

    def check(self) -> None:
        if not self.source:
            raise ConfigError("data.source is missing: name a folder or a parquet file.")
        if len(self.scale) != 2 or self.scale[0] is None:
            raise ConfigError(f"data.scale is [smallest, largest or null]; got {self.scale}.")


@dataclass
class TrainingSection:
    """The optimizer (AdamW), its schedule, and the rhythm of logs, checkpoints and evaluations.

    `batch_size` is a process's; `accumulation` of them make an optimizer step. A step count of 0
    turns evaluation (`eval_steps`) off; checkpoints are always written at the end.
    """

    steps: int = 10_000
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 1e-3
    lr_min: float = 0.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 200
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    init_batches: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu"] = "auto"
    threads: int | None = None
    seed: int = 0
    log_steps: int = 50
    save_steps: int = 500
    keep_checkpoints: int = 2
    eval_steps: int = 0
    report_to: list[str] = field(default_factory=list)

    def check(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_steps", "save_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1; got {getattr(self, name)}.")
        if self.keep_checkpoints < 2:
            raise ConfigError(
                "training.keep_checkpoints must be at least 2: an interrupted save leaves the "
                f"older one; got {self.keep_checkpoints}."
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training.betas are two numbers in [0, 1); got {self.betas}.")
        if not 0 <= self.lr_min <= self.lr or self.lr == 0:
            raise ConfigError(
                f"training wants 0 <= lr_min <= lr, lr above 0; got {self.lr_min}, {self.lr}."
            )
        if self.lr_min and self.schedule != "cosine":
            raise ConfigError(
                f"training.lr_min belongs to the cosine schedule; {self.schedule} does not use it."
            )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay is 0 (off) to below 1; got {self.ema_decay}.")
        if self.grad_clip < 0 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError("training.grad_clip, weight_decay, warmup_steps: none below 0.")


@dataclass
class EvaluationSection:
    """Images to report on: centre squares, resized to `size`. Without a source there is none."""

    source: str | None = None
    column: str = "image"
    limit: int | None = None
    size: int = 256
    batch_size: int = 8

    def check(self) -> None:
        if self.size < 16 or self.batch_size < 1:
            raise ConfigError(
                f"evaluation wants size >= 16 and batch_size >= 1; got {self.size}, "
                f"{self.batch_size}."
            )


@dataclass
class Recipe:
    """A whole run; `output` receives checkpoints, metrics.jsonl, tokenizer/, evaluation.json."""

    model: ModelSection
    data: DataSection
    losses: dict[str, Any] = field(default_factory=lambda: {"l1": 0.2, "l2": 1.0})
    training: TrainingSection = field(default_factory=TrainingSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    output: str = "runs/vqtok"
    resume: bool = False

    def check(self) -> None:
        for section in (self.model, self.data, self.training, self.evaluation):
            section.check()
        if self.training.eval_steps and self.evaluation.source is None:
            raise ConfigError("training.eval_steps is set, but evaluation.source is missing.")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe; relative paths in it are relative to where the command runs.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value`, the value in YAML.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named), a
            value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"the recipe {path} does not exist.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"the recipe {path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"the recipe {path} should be a mapping; it is {type(tree).__name__}.")
    for override in overrides:
        _apply_override(tree, override)
    return parse_recipe(tree)


def parse_recipe(tree: Mapping[str, Any]) -> Recipe:
    """A nested mapping to a checked Recipe."""
    recipe = _build(Recipe, tree, "")
    recipe.check()
    return recipe


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"an override is key=value, with dots in the key; got {override!r}.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {override!r} is not YAML: {error}") from error
    for name in names[:-1]:
        inner = tree.get(name)
        if inner is not None and not isinstance(inner, dict):
            # losses.l1=0.5 in the file, losses.l1.weight=... here
            inner = {"weight": inner}
        tree[name] = tree = dict(inner or {})
    tree[names[-1]] = value


def refuse_unknown(keys: Iterable[Any], known: Iterable[str], where: str) -> None:
    """A ConfigError for the first key of the section `where` that is not a known one."""
    known = sorted(known)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {known}."
            raise ConfigError(f"{where + '.' if where else ''}{key} is not a recipe key: {hint}")


def _build(cls: type, tree: Any, where: str):
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where} should be a mapping; got {tree!r}.")
    hints = typing.get_type_hints(cls)
    refuse_unknown(tree, hints, where)
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in tree
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"the recipe lacks {', '.join(missing)}.")
    values = {}
    for key, value in tree.items():
        dotted = f"{where}.{key}" if where else key
        hint = hints[key]
        nested = dataclasses.is_dataclass(hint)
        values[key] = _build(hint, value, dotted) if nested else _typed(hint, value, dotted)
    return cls(**values)


def _typed(hint: Any, value: Any, where: str) -> Any:
    """The value as the type asked for, or a ConfigError; YAML reads 1e-4 as text, so do numbers."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in choices:
            return None
        return _typed(next(c for c in choices if c is not type(None)), value, where)
    if origin is Literal and value in choices:
        return value
    if origin is list and isinstance(value, list):
        return [_typed(choices[0], item, where) for item in value]
    if origin is dict and isinstance(value, dict):
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(value)
    fits = isinstance(hint, type) and isinstance(value, hint)
    if fits and (hint is bool) == isinstance(value, bool):  # to Python, True is an int
        return value
    name = f"one of {list(choices)}" if origin is Literal else getattr(hint, "__name__", hint)
    raise ConfigError(f"{where} should be {name}; got {value!r}.")
