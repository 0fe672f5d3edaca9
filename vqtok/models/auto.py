"""`AutoVQTokenizer`: any tokenizer by the name of a folder, a bundled model or a Hub repository."""

import os
from pathlib import Path
from typing import ClassVar

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

from vqtok.devices import pick_device
from vqtok.errors import ConfigError, LoadError
from vqtok.models.adapters.registry import ADAPTERS, adapter_for, known_names
from vqtok.models.base import VQTokenizerModel
from vqtok.models.loading import (
    CONFIG_NAME,
    INDEX_NAME,
    PROCESSOR_NAME,
    build_config,
    load_model,
    read_config,
    read_index,
)
from vqtok.models.registration import FAMILIES
from vqtok.models.storage import CANARY_NAME, check_canary

PRETRAINED = Path(__file__).parents[1] / "pretrained"
BUNDLED_OWNER = "vqtok"
NESTED_PROCESSOR_NAME = "processor_config.json"  # where newer files keep the options
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Classes = tuple[type[PreTrainedConfig], type[VQTokenizerModel]]


class AutoVQTokenizer:
    """Finds the class of a tokenizer by its config; see `from_pretrained`."""

    _registered: ClassVar[dict[str, Classes]] = {}

    def __init__(self):
        raise ConfigError("AutoVQTokenizer is not made: use from_pretrained or from_config.")

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        local_files_only: bool = False,
        verify: bool = False,
    ) -> VQTokenizerModel:
        """A tokenizer in evaluation mode. No code of the repository is run, no pickle is read.

        Args:
            name: a folder; a name that ships with the package (`bundled()` lists them), which
                needs no network; or a Hub id "owner/repository".
            device: "auto", "cpu", "cuda", "cuda:1", "xla" or a torch.device.
            dtype: what encoder and decoder compute in: float32 (None), bfloat16 or float16. The
                quantizer always computes in float32. Lower precision moves some codes.
            revision: branch, tag or commit on the Hub.
            subfolder: of the folder or repository.
            token: for private repositories.
            local_files_only: only what the Hub's cache already has.
            verify: encode the canary that was stored with the weights, and compare its codes.

        Raises:
            LoadError: not found, not a tokenizer, or damaged; says what was found instead.
            FingerprintError: `verify`, and this machine gives other codes.
        """
        target, compute = pick_device(device), _dtype(dtype)
        folder = find(name, revision, subfolder, token, local_files_only)
        content = read_config(folder)
        if adapter := cls._adapter(content):
            model = adapter.load(folder, content)
        else:
            config_class, model_class = cls._classes(content, folder)
            model = load_model(folder, model_class, build_config(content, config_class))
        model = model.compute_in(compute).to(target)
        if verify:
            check_canary(model, folder)
        return model

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> VQTokenizerModel:
        """A fresh tokenizer, to be trained; of a foreign config the native model, untrained."""
        model_type = getattr(config, "model_type", None)
        if adapter := cls._adapter({"model_type": model_type}):
            return adapter.fresh(config)
        _, model_class = cls._classes({"model_type": model_type}, type(config).__name__)
        return model_class(config)

    @classmethod
    def register(
        cls, config_class: type[PreTrainedConfig], model_class: type[VQTokenizerModel]
    ) -> None:
        """Makes a tokenizer of your own known by its config's `model_type`.

        Raises:
            ConfigError: no model_type, one that is taken, or a class of another kind.
        """
        model_type = config_class.model_type
        if not model_type or not issubclass(model_class, VQTokenizerModel):
            raise ConfigError(
                "register wants a config class with a model_type and a subclass of "
                f"VQTokenizerModel; got model_type={model_type!r} and {model_class.__name__}."
            )
        known = cls._registered.get(model_type)
        if model_type in {*FAMILIES, *ADAPTERS} or known not in (None, (config_class, model_class)):
            raise ConfigError(f"model_type {model_type!r} is taken: choose another one.")
        cls._registered[model_type] = (config_class, model_class)

    @classmethod
    def _adapter(cls, content: dict) -> type[VQTokenizerModel] | None:
        """The adapter for a foreign config; None for our own and for registered ones."""
        known = (
            isinstance(content.get("model_type"), str) and content["model_type"] in cls._registered
        )
        return None if known else adapter_for(content)

    @classmethod
    def _classes(cls, content: dict, where: str | Path) -> Classes:
        model_type = content.get("model_type")
        if isinstance(model_type, str) and model_type in cls._registered:
            return cls._registered[model_type]
        if isinstance(model_type, str) and model_type in FAMILIES:
            family = FAMILIES[model_type]
            return family.config_class, family.model_class
        raise LoadError(
            f"{where} is no tokenizer that vqtok knows: its model_type is {str(model_type)[:80]!r} "
            f"(architectures: {str(content.get('architectures'))[:120]}); known are "
            f"{', '.join([*sorted({*FAMILIES, *cls._registered}), *known_names()])}."
        )


def bundled() -> list[str]:
    """Names of the tokenizers that ship with the package."""
    return sorted(f"{BUNDLED_OWNER}/{p.parent.name}" for p in PRETRAINED.glob(f"*/{CONFIG_NAME}"))


def find(
    name: str | os.PathLike,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder on this machine that holds the files of a name; downloads them if need be."""
    inside = Path(subfolder)
    if inside.is_absolute() or ".." in inside.parts:
        raise LoadError(f"subfolder must lie inside the folder or repository; got {subfolder!r}.")
    if Path(name).is_dir():
        if revision is not None:
            raise LoadError(f"{name} is a folder, which has no revision {revision!r}.")
        return Path(name) / inside
    if str(name) in bundled() and revision is None:
        return PRETRAINED / str(name).removeprefix(f"{BUNDLED_OWNER}/") / inside
    return _download(str(name), revision, inside.as_posix(), token, local_files_only)


def _download(
    repo: str, revision: str | None, inside: str, token: str | bool | None, local_files_only: bool
) -> Path:
    """The config first: of a repository that is no tokenizer nothing else is downloaded."""
    where = {"token": token, "local_files_only": local_files_only, "library_name": "vqtok"}
    prefix = "" if inside == "." else f"{inside}/"
    try:
        validate_repo_id(repo)
        config = Path(hf_hub_download(repo, prefix + CONFIG_NAME, revision=revision, **where))
        content = read_config(config.parent)
        adapter = AutoVQTokenizer._adapter(content)
        if adapter is None:
            AutoVQTokenizer._classes(content, repo)
        names = [INDEX_NAME, PROCESSOR_NAME, NESTED_PROCESSOR_NAME, CANARY_NAME, CONFIG_NAME]
        commit = config.parents[len(Path(prefix).parts)].name
        where["revision"] = commit
        patterns = [prefix + file for file in names]
        folder = Path(snapshot_download(repo, allow_patterns=patterns, **where)) / inside
        weights = ["*.safetensors"]
        if adapter is not None:
            index = read_index(folder) if (folder / INDEX_NAME).is_file() else {}
            weights = adapter.weight_names(index)
        patterns = [prefix + file for file in weights]
        return Path(snapshot_download(repo, allow_patterns=patterns, **where)) / inside
    except HFValidationError as error:
        raise LoadError(
            f"{repo} is no folder, and no Hub id owner/name either. "
            f"Bundled tokenizers: {', '.join(bundled()) or 'none'}."
        ) from error
    except EntryNotFoundError as error:
        raise LoadError(_not_found(repo, prefix, error)) from error
    except (HfHubHTTPError, OSError) as error:
        raise LoadError(f"{repo} could not be fetched from the Hub: {error}") from error


def _not_found(repo: str, prefix: str, error: Exception) -> str:
    return (
        f"{repo} is no folder here, and {prefix}{CONFIG_NAME} of that Hub repository was not "
        f"found, so it is no tokenizer or not reachable. "
        f"Bundled tokenizers: {', '.join(bundled()) or 'none'}. ({error})"
    )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    picked = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype or torch.float32
    if picked not in DTYPES.values():
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)} or None; got {dtype!r}.")
    return picked
