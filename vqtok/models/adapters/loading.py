"""A folder in another library's layout to a native model; little of it is believed.

Only safetensors are read and no code is run, whatever the config asks for. Of a config only the
fields that the family's class declares are used, of a multimodal model only its image tokenizer.
A tensor that is missing, left over, of another shape or not finite is an error.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from vqtok.errors import LoadError
from vqtok.models.fingerprint import SHARED_FIELDS
from vqtok.models.loading import (
    UNBUILDABLE,
    check_digests,
    check_headers,
    check_value,
    read_headers,
    read_tensors,
    weight_files,
)
from vqtok.models.storage import read_json

PREPROCESSOR_NAME, PROCESSOR_NAME = "preprocessor_config.json", "processor_config.json"
# where transformers writes the options of a processor's parts
PROCESSOR_PARTS = ("feature_extractor", "image_processor", "audio_processor")
# redirects weights to another repository where the package peft is installed
PEFT_NAME = "adapter_config.json"
BUDGET_SLACK = 1_000_000  # tensors that a library computes instead of storing
MAX_SIDE, MAX_AREA = 16_384, 2**28  # of an image that a processor may be told to make


def native_config(
    content: Mapping[str, Any],
    config_class: type[PreTrainedConfig],
    extra: tuple[str, ...] = (),
) -> PreTrainedConfig:
    """A native config from the content of config.json.

    Args:
        content: keys that the class does not declare are left out: they can only redirect.
        config_class: the family's.
        extra: keys of older files that the class still understands.

    Raises:
        LoadError: a value that is out of all proportion, or that the class refuses.
    """
    own = {field.name for field in dataclasses.fields(config_class)} - SHARED_FIELDS
    fields = {key: value for key, value in content.items() if key in own | set(extra)}
    check_value("config.json", fields)
    try:
        return config_class(**fields)
    except (*UNBUILDABLE, StrictDataclassError) as error:
        raise LoadError(
            f"config.json does not describe a {config_class.__name__}: {error}"
        ) from error


def skeleton(model_class: type, config: PreTrainedConfig, folder: Path) -> nn.Module:
    """The model without memory for its tensors."""
    try:
        with no_init_weights(), torch.device("meta"):
            return model_class(config)
    except UNBUILDABLE as error:
        raise LoadError(f"{folder} has a config that describes no model: {error}") from error


def load_whole(folder: Path, model_class: type, config: PreTrainedConfig) -> nn.Module:
    """A native model by its library's own loader, which knows how older files name the tensors.

    Args:
        folder: holds model.safetensors or its shards.
        model_class: a transformers or diffusers class.
        config: of the model; the file's own config is not read again.
    """
    check_budget(skeleton(model_class, config, folder), weight_files(folder), folder)
    if (folder / PEFT_NAME).exists():
        raise LoadError(
            f"{folder} has an {PEFT_NAME}: a tokenizer is read whole, without adapters."
        )
    try:
        native, report = model_class.from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (*UNBUILDABLE, OSError, SafetensorError) as error:
        raise LoadError(
            f"{model_class.__name__} cannot be loaded from {folder}: {error}"
        ) from error
    check_report(report, folder)
    check_finite(native, folder)
    return native.eval()


def load_part(folder: Path, model_class: type, config: PreTrainedConfig, part: str) -> nn.Module:
    """A native model from the tensors of a larger one; the others are not looked at.

    Args:
        folder: holds model.safetensors or, of its shards, at least those with the part.
        model_class: the part's.
        config: the part's.
        part: what precedes its names, as "vqmodel."; "" takes the whole file.
    """
    native = skeleton(model_class, config, folder)
    files = weight_files(folder, part)
    prefix, found = strip_prefix(read_headers(files), part, folder)
    expected = native.state_dict()
    check_headers(expected, found, folder)
    state = {
        name: tensor for path in files for name, tensor in read_tensors(path, expected, prefix)
    }
    native.load_state_dict(state, assign=True)
    left = [name for name, tensor in native.named_buffers() if tensor.is_meta]
    if left:
        raise LoadError(f"{model_class.__name__} computes {left}, which no file fills.")
    return native.eval()


def strip_prefix(headers: dict, part: str, folder: Path) -> tuple[str, dict]:
    """The one prefix that ends in `part`, and the headers under it without the prefix."""
    prefixes = {name[: name.index(part) + len(part)] for name in headers if part in name}
    if len(prefixes) != 1:
        raise LoadError(
            f"the weights in {folder} should have one part {part!r}; found {sorted(prefixes)[:5]}."
        )
    prefix = prefixes.pop()
    found = {n.removeprefix(prefix): h for n, h in headers.items() if n.startswith(prefix)}
    return prefix, found


def check_budget(model: nn.Module, files: list[Path], folder: Path) -> None:
    """Refuses a config that asks for far more memory than the files can fill."""
    asked = sum(tensor.numel() for tensor in model.state_dict().values())
    held = sum(math.prod(shape) for shape, _ in read_headers(files).values())
    if asked > 1.1 * held + BUDGET_SLACK:
        raise LoadError(
            f"the config in {folder} asks for {asked:,} numbers, but its weights hold {held:,}."
        )


def check_report(report: Mapping[str, Any], folder: Path) -> None:
    """Nothing missing, left over or of another shape, by a library's own loading report."""
    faults = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if faults:
        listed = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in faults.items())
        raise LoadError(f"the weights in {folder} do not fit its config: {listed}.")


def check_finite(model: nn.Module, folder: Path) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise LoadError(f"{name} in {folder} holds NaN or infinity.")


def finish(model: nn.Module, folder: Path) -> Any:
    """What every loaded adapter goes through: a name, evaluation mode, the canary's digests."""
    model.eval()
    model.name_or_path = model.config.name_or_path = str(folder)
    check_digests(folder, model)
    return model


def native_processor(folder: Path, processor_class: type, defaults: Mapping[str, Any]) -> Any:
    """The family's processor with the options beside the weights, or with `defaults`."""
    options = processor_options(folder)
    if options is None:
        return processor_class(**defaults)
    options = {k: v for k, v in options.items() if not k.startswith("_") and k != "auto_map"}
    check_value(PREPROCESSOR_NAME, options)
    check_sides(options)
    try:
        return processor_class.from_dict(options)
    except UNBUILDABLE as error:
        raise LoadError(
            f"{folder} does not describe a {processor_class.__name__}: {error}"
        ) from error


def processor_options(folder: Path) -> dict[str, Any] | None:
    """The options of the one processor that a folder describes; None if it describes none."""
    if (folder / PREPROCESSOR_NAME).is_file():
        return read_json(folder / PREPROCESSOR_NAME)
    if (folder / PROCESSOR_NAME).is_file():
        content = read_json(folder / PROCESSOR_NAME)
        parts = [content[name] for name in PROCESSOR_PARTS if isinstance(content.get(name), dict)]
        return parts[0] if parts else None
    return None


def check_sides(options: Mapping[str, Any]) -> None:
    """An image processor must not be told to make a picture that fills the memory."""
    for key in ("size", "crop_size", "min_pixels", "max_pixels", "min_size"):
        value = options.get(key)
        numbers = value.values() if isinstance(value, dict) else [value]
        limit = MAX_AREA if "pixels" in key else MAX_SIDE
        for inner, number in zip(value if isinstance(value, dict) else [""], numbers, strict=True):
            bound = MAX_AREA if "pixels" in inner else limit
            if isinstance(number, (int, float)) and number > bound:
                raise LoadError(f"{key} of the processor is {number}; at most {bound} is read.")
