"""Digests that say whether two tokenizers give and read the same codes.

    codebook  the quantizer's tensors: the meaning of a code in latent space
    decode    family, code spec, quantizer and decoder: what codes come back as
    encode    decode, encoder, preprocessing and arithmetic: which codes an input gets

Every tensor is hashed as little-endian float32 (or int64), so neither the dtype on disk nor the
machine matters. Training statistics (EMA sums, usage counters) and training options are left out:
they may go on without changing a single code.

A config counts by its fields that differ from their defaults. So a later version may add a field
whose default keeps the old behaviour, but may never change a default: that would give every
stored tokenizer another name.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

# options and buffers of quantizers that act in training only
TRAINING_OPTIONS = frozenset(
    {"commitment_weight", "decay", "gradient", "level_dropout", "revive_below", "revive_by"}
)
TRAINING_BUFFERS = frozenset({"code_counts", "code_sums", "frozen", "initialized"})
SHARED_FIELDS = frozenset(field.name for field in dataclasses.fields(PreTrainedConfig))


@dataclass(frozen=True)
class Fingerprint:
    """Hex SHA-256 digests: `encode`, `decode` and `codebook`; the first 16 digits are enough."""

    encode: str
    decode: str
    codebook: str


def fingerprint_of(model: nn.Module, decode: str | None = None) -> Fingerprint:
    """Hashes the model as it is now.

    Args:
        model: a tokenizer; any device, any dtype.
        decode: the digest that decoding goes by, if not the one of the tensors as they are now: a
            model cast to bfloat16 after loading still decodes the codes of its file.
    """
    codebook = digest_of_json(part_digests(model, "quantizer"))
    if decode is None:
        decode = digest_of_json(
            {
                "family": model.config.model_type,
                "version": model.architecture_version,
                "modality": model.modality,
                "codebook_sizes": list(model.codebook_sizes),
                "config": _code_config(model, encoder=False),
                "codebook": codebook,
                "decoder": part_digests(model, "decoder"),
            }
        )
    encode = digest_of_json(
        {
            "decode": decode,
            "config": _code_config(model, encoder=True),
            "encoder": part_digests(model, "encoder"),
            "preprocessing": _preprocessing(model),
            "numerics": {
                "profile": model.numerics,
                "dtype": str(model.dtype).removeprefix("torch."),
            },
        }
    )
    return Fingerprint(encode=encode, decode=decode, codebook=codebook)


class FingerprintCache:
    """The fingerprint of a model, hashed again only after its tensors or options changed.

    In-place changes are seen by torch's version counters; those made behind its back (through
    `.data`) by the norm of all tensors, which is far quicker than a hash.
    """

    def __init__(self):
        self._key: tuple | None = None
        self._value: Fingerprint | None = None
        self._kept: dict[str, str] = {}
        self._held = False

    @contextmanager
    def held(self, model: nn.Module) -> Iterator[None]:
        """Inside, nobody looks whether the tensors changed: for loops that leave them alone."""
        self.of(model)
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def of(self, model: nn.Module) -> Fingerprint:
        if self._held:
            return self._value
        key = self._key_of(model)
        if key != self._key:
            value = fingerprint_of(model)
            if value.decode in self._kept:
                value = fingerprint_of(model, decode=self._kept[value.decode])
            self._value, self._key = value, key
        return self._value

    def keep(self, decode: str, of: nn.Module) -> None:
        """From here on, a model with the tensors that `of` has now goes by the digest `decode`."""
        actual = fingerprint_of(of).decode
        self._kept = {} if actual == decode else {actual: decode}
        self._key = None

    @staticmethod
    @torch.no_grad()
    def _key_of(model: nn.Module) -> tuple:
        tensors = list(model.state_dict(keep_vars=True).values())
        # tensors made in inference mode count no versions
        versions = (0 if t.is_inference() else t._version for t in tensors)
        places = ((t.data_ptr(), t.dtype, t.device) for t in tensors)
        seen = tuple(zip(versions, places, strict=True))
        norm = nn.utils.get_total_norm([t.detach().float() for t in tensors if t.numel()])
        options = canonical_json([model.config.to_dict(), _preprocessing(model), model.numerics])
        return seen, float(norm), options


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of shape and values; floats as little-endian float32, the rest as int64."""
    kind, dtype = ("float32", "<f4") if tensor.is_floating_point() else ("int64", "<i8")
    values = tensor.detach().to("cpu", getattr(torch, kind)).contiguous().numpy()
    digest = hashlib.sha256(f"{tuple(tensor.shape)}|{kind}|".encode())
    digest.update(values.astype(dtype, copy=False).reshape(-1).view("u1").data)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces; what JSON lacks goes in by its name."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def digest_of_json(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def tensor_digests(module: nn.Module, prefix: str) -> dict[str, str]:
    """Digests by name, without what only training looks at."""
    return {
        f"{prefix}.{name}": tensor_digest(tensor)
        for name, tensor in module.state_dict().items()
        if name.rpartition(".")[2] not in TRAINING_BUFFERS
    }


def part_digests(model: nn.Module, part: str) -> dict[str, str]:
    """Digests of "encoder", "quantizer" or "decoder"; an adapter says itself what they are."""
    own = getattr(model, "part_digests", None)
    return tensor_digests(getattr(model, part), part) if own is None else own(part)


def _code_config(model: nn.Module, encoder: bool) -> dict[str, Any]:
    own = getattr(model, "code_config", None)
    return _fields(model.config, encoder) if own is None else own(encoder)


def _fields(config: PreTrainedConfig, encoder: bool) -> dict[str, Any]:
    """The config's own fields that are not at their defaults; the encoder's, or all others."""
    fields = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in SHARED_FIELDS or field.name.startswith("encoder") != encoder:
            continue
        if value != _default(field):
            fields[field.name] = _without_training_options(value)
    return fields


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _without_training_options(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_training_options(inner)
            for key, inner in value.items()
            if key not in TRAINING_OPTIONS
        }
    return value


def _preprocessing(model: nn.Module) -> dict[str, Any]:
    processor = model.processor
    if processor is None:
        return {}
    return {"class": type(processor).__name__, **processor.code_options()}
