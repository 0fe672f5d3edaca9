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
from vqtok.models.registration import FAMILIES, Family
from vqtok.training.recipe_sections import (
    MODALITIES,
    DataSection,
    EvaluationSection,
    ModelSection,
    TrainingSection,
)

# the losses of a recipe that names none
LOSSES_OF = {
    "image": {"l1": 0.2, "l2": 1.0},
    "audio": {"waveform": 1.0, "stft": 1.0},
    "text": {"bytes": 1.0},
    "embedding": {"l2": 1.0},
}


@dataclass
class Recipe:
    """A whole run; `output` receives checkpoints, metrics.jsonl, tokenizer/, evaluation.json."""

    model: ModelSection
    data: DataSection
    losses: dict[str, Any]
    evaluation: EvaluationSection
    training: TrainingSection = field(default_factory=TrainingSection)
    output: str = "runs/vqtok"
    resume: bool = False

    def check(self) -> None:
        for section in (self.model, self.data, self.training, self.evaluation):
            section.check()
        self._check_preset()
        if self.training.eval_steps and self.evaluation.source is None:
            raise ConfigError("training.eval_steps is set, but evaluation.source is missing.")

    def _check_preset(self) -> None:
        model = self.model
        if model.from_pretrained is not None:
            return
        if hasattr(family_of(model.type).config_class, "preset"):
            if model.preset is None:
                raise ConfigError("model wants either preset or from_pretrained, and not both.")
        elif model.preset is not None:
            raise ConfigError(
                f"a model of type {model.type} has no presets: leave model.preset out, and say in "
                "model.overrides what it is."
            )

    @property
    def modality(self) -> str:
        """What the model takes: a key of `MODALITIES`."""
        return family_of(self.model.type).model_class.modality

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
    model = tree.get("model", {})
    kind = model.get("type", ModelSection.type) if isinstance(model, Mapping) else None
    modality = family_of(kind).model_class.modality
    data, evaluation = MODALITIES[modality]
    tree = {"losses": LOSSES_OF[modality], "evaluation": {}} | dict(tree)
    recipe = _build(Recipe, tree, "", {"data": data, "evaluation": evaluation})
    recipe.check()
    return recipe


def family_of(kind: Any) -> Family:
    """The family of models with this `model.type`, the name of its folder."""
    families = {family.folder: family for family in FAMILIES.values()}
    if kind not in families:
        raise ConfigError(f"model.type is one of {sorted(families)}; got {kind!r}.")
    return families[kind]


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


def _build(cls: type, tree: Any, where: str, narrower: Mapping[str, type] | None = None):
    """A dataclass from a mapping; `narrower` has other types for some of its fields."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where} should be a mapping; got {tree!r}.")
    hints = typing.get_type_hints(cls) | dict(narrower or {})
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
