"""What the configurations of our tokenizers share: presets with overrides, and sizes in range."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from vqtok.errors import ConfigError

Config = TypeVar("Config", bound=PreTrainedConfig)


def from_preset(
    config_class: type[Config],
    presets: Mapping[str, Mapping[str, Any]],
    name: str,
    overrides: Mapping[str, Any],
) -> Config:
    """The configuration of a preset, with fields changed at will.

    Raises:
        ConfigError: no such preset, a field that the configuration lacks, or a value that it
            cannot have.
    """
    title = config_class.__name__
    if name not in presets:
        raise ConfigError(f"{title}'s presets are {', '.join(presets)}; got {name!r}.")
    # transformers would keep an unknown name, and write it where no one can load it
    unknown = sorted(set(overrides) - {field.name for field in dataclasses.fields(config_class)})
    if unknown:
        raise ConfigError(f"{title} has no options {', '.join(unknown)}.")
    try:
        return config_class(**{**presets[name], **overrides})
    except StrictDataclassError as error:  # no ValueError, though it says what is wrong
        raise ConfigError(str(error)) from error


def check_ranges(config: PreTrainedConfig, ranges: Mapping[str, tuple[int, int]]) -> None:
    """A ConfigError for the first field that is below its least or above its largest value."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} must be {low} to {high}; got {value}.")
