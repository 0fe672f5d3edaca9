"""What lies beside the weights of a tokenizer: rounded weights and the canary.

The canary is a few inputs made of integers and the codes they got when the tokenizer was saved.
Whoever loads the weights can encode them again and sees whether this machine gives the same codes.
"""

import copy
import json
import os
import platform
from pathlib import Path

import torch
from torch import Tensor, nn

from vqtok.errors import ConfigError, FingerprintError, LoadError
from vqtok.models.fingerprint import digest_of_json, fingerprint_of, part_digests

CANARY_NAME = "canary.json"
MAX_FLIP_RATE = 0.05  # on another kind of machine or in another dtype: bfloat16 flips 3 %
MAX_JSON_BYTES = 1_000_000


def rounded_copy(model: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, dict[str, Tensor]]:
    """A float32 model whose weights fit `dtype`, and its state in that dtype.

    Only matrices and kernels of encoder and decoder are rounded, and the sums that codebooks are
    the means of, which only training looks at: vectors (norms, biases, step sizes) weigh nothing,
    and codebooks must not move.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"dtype must be a floating torch.dtype such as float16; got {dtype!r}.")
    rounded = copy.deepcopy(model)
    state = rounded.state_dict()
    for name, tensor in state.items():
        rounds = name.startswith(("encoder.", "decoder.")) or name.endswith(".code_sums")
        if not rounds or not tensor.is_floating_point() or tensor.ndim < 2:
            continue
        smaller = tensor.to(dtype)
        if smaller.isfinite().all():  # what is beyond float16 stays as it is
            state[name] = smaller
            tensor.copy_(smaller)
    return rounded, state


def write_canary(model: nn.Module, folder: str | os.PathLike) -> None:
    """Encodes the canary inputs, one by one as `tokenize` does, and stores codes and digests."""
    codes = _canary_codes(model)
    content = {
        "version": 1,
        "machine": _machine(model),
        "digests": weight_digests(model),
        "sha256": digest_of_json(codes),
        "codes": codes,
    }
    Path(folder, CANARY_NAME).write_text(json.dumps(content) + "\n", encoding="utf-8")


def weight_digests(model: nn.Module) -> dict[str, str]:
    """What the files amount to: the weights, without preprocessing and precision."""
    fingerprint = fingerprint_of(model)
    return {
        "decode": fingerprint.decode,
        "codebook": fingerprint.codebook,
        "encoder": digest_of_json(part_digests(model, "encoder")),
    }


def check_canary(model: nn.Module, folder: Path) -> None:
    """Encodes the canary inputs again.

    Raises:
        LoadError: there is no canary, or it cannot be read.
        FingerprintError: the codes are others than those stored: all of them must be the same on
            the same kind of machine, 98 % of them elsewhere.
    """
    content = read_canary(folder)
    if content is None:
        raise LoadError(
            f"verify=True wants {CANARY_NAME} beside the weights, and {folder} has none: save the "
            "tokenizer again with save_pretrained, or load it without verify."
        )
    stored, codes = content["codes"], _canary_codes(model)
    if digest_of_json(stored) != content["sha256"]:
        raise LoadError(
            f"{folder / CANARY_NAME} is damaged: its codes are not those of its sha256."
        )
    same_kind = content["machine"] == _machine(model)
    flips = flip_rate(stored, codes)
    if flips > (0.0 if same_kind else MAX_FLIP_RATE):
        raise FingerprintError(
            f"{flips:.1%} of the canary's codes came out differently from those stored in {folder} "
            f"(saved on {content['machine']}, this is {_machine(model)}): weights, torch or "
            "hardware do not reproduce this tokenizer. Do not mix its codes with stored ones."
        )


def flip_rate(stored: list, codes: list) -> float:
    """Share of codes that differ between two lists of nested lists; 1 if their shapes do."""
    try:
        before, now = (torch.tensor(every, dtype=torch.int64) for every in (stored, codes))
    except (TypeError, ValueError):
        return 1.0
    return 1.0 if before.shape != now.shape else float((before != now).double().mean())


def read_canary(folder: Path) -> dict | None:
    """The content of canary.json; None if there is none.

    Raises:
        LoadError: it is there but is no canary.
    """
    path = folder / CANARY_NAME
    if not path.is_file():
        return None
    content = read_json(path)
    keys = {"version", "machine", "digests", "sha256", "codes"}
    known = content.get("version") == 1 and set(content) == keys
    if not known or not isinstance(content["digests"], dict):
        raise LoadError(
            f"{path} is no canary of version 1: it wants {sorted(keys)}, and holds "
            f"{sorted(content)[:20]}. Was it written by a later vqtok?"
        )
    return content


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict:
    """A JSON object of at most `limit` bytes (1 MB) without repeated keys and without NaN.

    Raises:
        LoadError: anything else.
    """
    size = path.stat().st_size
    if size > limit:
        raise LoadError(f"{path} has {size} bytes; a tokenizer's has at most {limit}.")
    try:
        content = json.loads(
            path.read_bytes(), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise LoadError(f"{path} should hold a JSON object; it holds a {type(content).__name__}.")
    return content


def refreeze(model: nn.Module) -> None:
    """Frozen codebooks stop asking for gradients again, which loading forgets."""
    for module in model.modules():
        if getattr(module, "is_frozen", False):
            module.freeze()


def _object(pairs: list[tuple[str, object]]) -> dict:
    if len(dict(pairs)) != len(pairs):
        raise ValueError(f"a key is repeated in {[key for key, _ in pairs][:20]}")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON knows")


def _canary_codes(model: nn.Module) -> list:
    with model.inference():
        inputs = model.canary_inputs().to(model.device)
        return [model.encode(item[None])[0].tolist() for item in inputs]


def _machine(model: nn.Module) -> str:
    """What must be equal for codes to be equal bit by bit."""
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{model.device.type} {platform.machine()} {dtype}"
