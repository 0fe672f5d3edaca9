"""A folder from a stranger to a tokenizer: nothing in it is run, and little of it is believed.

    config.json ─ size, keys, values ─▶ config ─▶ model without memory ─ names, shapes ─▶ weights
                                                          ▲
                             headers of *.safetensors ────┘

Only safetensors are read, no pickle and no code. What the file holds is compared with what the
config asks for before memory is taken, so a config of 10**12 codes costs nothing. A tensor that is
missing or left over is an error, because a tokenizer with a fresh tensor in it gives wrong codes.
"""

import dataclasses
import inspect
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from vqtok.errors import LoadError, VqtokError
from vqtok.models.fingerprint import SHARED_FIELDS
from vqtok.models.storage import (
    CANARY_NAME,
    MAX_JSON_BYTES,
    read_canary,
    read_json,
    refreeze,
    weight_digests,
)

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
INDEX_NAME, PROCESSOR_NAME = "model.safetensors.index.json", "preprocessor_config.json"
# what transformers writes into every config.json
BOOKKEEPING = frozenset({"architectures", "dtype", "model_type", "transformers_version"})
SWITCHES = frozenset({"output_hidden_states", "return_dict"})
PROCESSOR_BOOKKEEPING = frozenset(
    {"feature_extractor_type", "image_processor_type", "processor_class"}
)
# a count becomes modules, a size only a shape
MAX_COUNTS = {
    "num_regions": 64,
    "num_codebooks": 1024,
    # of foreign configs: the first is the number of modules, the others are rows of a codebook
    "n_codebooks": 1024,
    "num_embeddings": 2**24,
    "num_vq_embeddings": 2**24,
}
# multimodal models whose config carries a vocabulary of some megabytes
WITH_VOCABULARY = frozenset({"chameleon", "emu3", "janus"})
MAX_VOCABULARY_BYTES = 32_000_000
MAX_COUNT, MAX_SIZE, MAX_ITEMS, MAX_DEPTH = 4096, 2**31, 1024, 8
# what a constructor raises on values that passed every check
UNBUILDABLE = (
    StrictDataclassError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
STORED = {torch.uint8: "U8", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; names what lies in the folder if there is none."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        files = sorted(entry.name for entry in folder.iterdir())[:10] if folder.is_dir() else []
        raise LoadError(
            f"{folder} has no {CONFIG_NAME}, so it is no tokenizer. It holds: "
            f"{', '.join(files) or 'nothing'}. save_pretrained(folder) writes one."
        )
    if path.stat().st_size > MAX_JSON_BYTES:
        with suppress(LoadError):
            content = read_json(path, MAX_VOCABULARY_BYTES)
            if str(content.get("model_type")) in WITH_VOCABULARY:
                return content
    return read_json(path)


def build_config(content: dict[str, Any], config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A config from the content of config.json.

    Raises:
        LoadError: a key that the class does not have, or a value that is out of all proportion.
    """
    own = {field.name for field in dataclasses.fields(config_class)} - SHARED_FIELDS
    unknown = sorted(set(content) - own - BOOKKEEPING - SWITCHES)
    if unknown:
        raise LoadError(
            f"config.json has the keys {unknown[:10]}, which {config_class.__name__} does not "
            f"know; it knows {sorted(own)}. Was it written by a later vqtok?"
        )
    fields = {key: value for key, value in content.items() if key not in BOOKKEEPING}
    check_value("config.json", fields)
    try:
        return config_class(**fields)
    except (StrictDataclassError, VqtokError, TypeError) as error:
        raise LoadError(
            f"config.json does not describe a {config_class.__name__}: {error}"
        ) from error


def check_value(name: str, value: Any, depth: int = 0) -> None:
    """Refuses what no tokenizer needs: huge counts, infinite floats, long lists, deep nesting."""
    key = name.rpartition(".")[2]
    problem = None
    if depth > MAX_DEPTH:
        problem = f"is nested deeper than {MAX_DEPTH}"
    elif isinstance(value, (dict, list)) and len(value) > MAX_ITEMS:
        problem = f"has {len(value)} entries; at most {MAX_ITEMS} are read"
    elif isinstance(value, str) and len(value) > MAX_ITEMS:
        problem = f"has {len(value)} characters; at most {MAX_ITEMS} are read"
    elif isinstance(value, float) and not math.isfinite(value):
        problem = "is not finite"
    elif isinstance(value, int) and not isinstance(value, bool):
        limit = MAX_COUNTS.get(key, MAX_COUNT if key.startswith("num_") else MAX_SIZE)
        if abs(value) > limit:
            problem = f"is {value}; at most {limit} is read"
    if problem:
        raise LoadError(f"{name} {problem}: is this a vqtok tokenizer?")
    if isinstance(value, list):
        value = dict(enumerate(value))
    for inner, entry in value.items() if isinstance(value, dict) else ():
        check_value(f"{name}.{inner}", entry, depth + 1)


def load_model(folder: Path, model_class: type, config: PreTrainedConfig) -> nn.Module:
    """A float32 model on the CPU, in evaluation mode, with the weights and processor of `folder`.

    Raises:
        LoadError: the files are damaged, incomplete, or belong to another config.
    """
    try:
        with no_init_weights(), torch.device("meta"):
            model = model_class(config)
    except UNBUILDABLE as error:
        raise LoadError(f"{folder / CONFIG_NAME} does not describe a model: {error}") from error
    expected = model.state_dict()
    files = weight_files(folder)
    check_headers(expected, read_headers(files), folder)
    state = {name: tensor for path in files for name, tensor in read_tensors(path, expected)}
    model.load_state_dict(state, assign=True)
    left = [name for name, tensor in model.named_buffers() if tensor.is_meta]
    if left:
        raise LoadError(
            f"{model_class.__name__} keeps {left} in non-persistent buffers, which no file fills."
        )
    model.eval()
    refreeze(model)
    model.name_or_path = model.config.name_or_path = str(folder)
    load_processor(folder, model)
    check_digests(folder, model)
    return model


def weight_files(folder: Path, part: str = "", name: str = WEIGHTS_NAME) -> list[Path]:
    """model.safetensors, or the shards that its index names; all inside the folder.

    Args:
        folder: where they lie.
        part: only the shards with tensors that have this in their names.
        name: of the file, where a library calls it otherwise.
    """
    if (folder / name).is_file():
        return [folder / name]
    if not (folder / INDEX_NAME).is_file():
        others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".ckpt"))
        hint = f" It has {', '.join(others)}, which could run code when read." if others else ""
        raise LoadError(f"{folder} has no {name}; only safetensors are read.{hint}")
    names = read_index(folder)
    files = [folder / file for file in sorted({f for tensor, f in names.items() if part in tensor})]
    for path in files:
        plain = path.parent == folder and path.suffix == ".safetensors" and ".." not in path.name
        if not plain or not path.is_file():
            raise LoadError(f"{folder / INDEX_NAME} names {path}, which is no shard beside it.")
    return files


def read_index(folder: Path) -> dict[str, str]:
    """Tensor to file, of a sharded model."""
    names = read_json(folder / INDEX_NAME).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise LoadError(f"{folder / INDEX_NAME} has no weight_map from tensors to files.")
    return names


def read_headers(files: list[Path]) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of every tensor, without reading a value."""
    headers: dict[str, tuple[list[int], str]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - safe_open is no mapping
                    if name in headers:
                        raise LoadError(f"{path} holds {name}, which another shard holds, too.")
                    entry = shard.get_slice(name)
                    headers[name] = (entry.get_shape(), entry.get_dtype())
        except (SafetensorError, OSError) as error:
            raise LoadError(f"{path} is damaged or no safetensors file: {error}.") from error
    return headers


def check_headers(
    expected: dict[str, Tensor], found: dict[str, tuple[list[int], str]], folder: Path
) -> None:
    missing, left_over = sorted(expected.keys() - found), sorted(found.keys() - expected.keys())
    if missing or left_over:
        raise LoadError(
            f"the weights in {folder} do not fit its config: {len(missing)} tensors are missing "
            f"({', '.join(missing[:5])}), {len(left_over)} are left over "
            f"({', '.join(left_over[:5])})."
        )
    for name, tensor in expected.items():
        shape, dtype = found[name]
        if shape != list(tensor.shape):
            raise LoadError(
                f"{name} in {folder} is {shape}, but its config asks for {list(tensor.shape)}."
            )
        if dtype != STORED.get(tensor.dtype) and not (
            tensor.is_floating_point() and dtype in FLOATS
        ):
            raise LoadError(f"{name} in {folder} is {dtype}, but the model has {tensor.dtype}.")


def read_tensors(path: Path, expected: dict[str, Tensor], prefix: str = ""):
    """Names and tensors of a file, in the dtypes that the model computes in.

    Args:
        path: of the file.
        expected: of the model.
        prefix: before its names in the file; what has another one is left out.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - safe_open is no mapping
                if not name.startswith(prefix):
                    continue
                own = name.removeprefix(prefix)
                tensor = shard.get_tensor(name).to(expected[own].dtype, copy=True)
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise LoadError(f"{name} in {path} holds NaN or infinity.")
                yield own, tensor
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path} is damaged: {error}.") from error


def load_processor(folder: Path, model: nn.Module) -> None:
    """Gives the model the processor of preprocessor_config.json, if there is one."""
    path = folder / PROCESSOR_NAME
    if model.processor_class is None or not path.is_file():
        return
    content = read_json(path)
    check_value(PROCESSOR_NAME, content)
    options = set(inspect.signature(model.processor_class).parameters) - {"kwargs"}
    unknown = sorted(set(content) - options - PROCESSOR_BOOKKEEPING)
    if unknown:
        raise LoadError(
            f"{path} has the keys {unknown[:10]}, which {model.processor_class.__name__} does not "
            f"know; it knows {sorted(options)}."
        )
    chosen = {key: value for key, value in content.items() if key in options}
    try:
        model.processor = model.processor_class(**chosen)
    except (VqtokError, TypeError) as error:
        raise LoadError(f"{path} has values that cannot be: {error}") from error


def check_digests(folder: Path, model: nn.Module) -> None:
    """The weights must be those that were saved; a flipped bit is not seen any other way."""
    canary = read_canary(folder)
    if canary is None:
        return
    found = weight_digests(model)
    wrong = [part for part in found if canary["digests"].get(part) != found[part]]
    if wrong:
        raise LoadError(
            f"the weights in {folder} are not those that were saved there: by {CANARY_NAME}, the "
            f"digest of {', '.join(wrong)} differs. Fetch the folder again, or, if it was changed "
            "on purpose, save it again with save_pretrained."
        )
