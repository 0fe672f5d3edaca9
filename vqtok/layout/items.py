"""What layouts read and give back: the codes of one item, and the tokenizer that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtok.errors import CodeRangeError, ConfigError, FingerprintError, InputError, ShapeError

MIN_DIGITS = 16  # of a fingerprint that is cut short


@dataclass(frozen=True, eq=False)
class CodeItem:
    """The codes of one item; `tok.detokenize` takes it as it takes VQTokens.

    Attributes:
        codes: int64 [Q, *grid] on the CPU.
        meta: what detokenize needs beside the codes; empty where only ids were known.
        fingerprint: decode fingerprint of the tokenizer that made the codes, or its beginning.
    """

    codes: Tensor
    meta: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


@dataclass(frozen=True)
class Stream:
    """Codes of one tokenizer inside a vocabulary.

    Attributes:
        name: what templates call it, for example "image".
        codebook_sizes: K of every level that is kept, level 0 the coarsest.
        fingerprint: decode fingerprint of the tokenizer, in full.
        tokenizer: what loads the tokenizer again.
        modality: "image", "audio", "text" or "embedding", where known.
        ids: an explicit table: for each level the id of every code. None: ranges are given out.
    """

    name: str
    codebook_sizes: tuple[int, ...]
    fingerprint: str
    tokenizer: str = ""
    modality: str = ""
    ids: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self):
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ConfigError(
                f"stream {self.name!r} wants codebook sizes of at least 1; "
                f"got {list(self.codebook_sizes)}."
            )
        if len(self.fingerprint) < MIN_DIGITS:
            raise ConfigError(
                f"stream {self.name!r} wants the decode fingerprint of its tokenizer, at least "
                f"{MIN_DIGITS} digits, so that codes of another one are refused; "
                f"got {self.fingerprint!r}."
            )
        if self.ids is not None and tuple(map(len, self.ids)) != self.codebook_sizes:
            raise ConfigError(
                f"the id table of stream {self.name!r} holds {list(map(len, self.ids))} ids; its "
                f"codebooks have {list(self.codebook_sizes)} codes."
            )

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @classmethod
    def from_tokenizer(
        cls, name: str, tokenizer: Any, num_codebooks: int | None = None, label: str = ""
    ) -> "Stream":
        """The stream of a tokenizer, or of its first `num_codebooks` levels."""
        sizes = tuple(tokenizer.codebook_sizes)[:num_codebooks]
        label = label or getattr(tokenizer, "name_or_path", "")
        return cls(name, sizes, tokenizer.fingerprint.decode, label, tokenizer.modality)

    @classmethod
    def from_manifest(cls, name: str, manifest: Mapping[str, Any]) -> "Stream":
        """The stream of a tokenized dataset; `manifest` is the content of its vqtok.json."""
        made_by = manifest["tokenizer"]
        sizes = made_by["codebook_sizes"][: manifest["options"]["num_codebooks"]]
        digest = made_by["fingerprint"]["decode"]
        return cls(name, tuple(sizes), digest, made_by["name"], made_by["modality"])

    def check(self, item: CodeItem) -> None:
        """Refuse codes of another tokenizer, of other levels, or out of range."""
        made_by = item.fingerprint
        if len(made_by) < MIN_DIGITS or not self.fingerprint.startswith(made_by):
            raise FingerprintError(
                f"stream {self.name!r} holds codes of {self.tokenizer or 'the tokenizer'} "
                f"{self.fingerprint[:MIN_DIGITS]}; these were made by "
                f"{made_by[:MIN_DIGITS] or 'an unknown one'}. Build a layout for that tokenizer."
            )
        wrong = item.codes.ndim < 2 or item.codes.shape[0] != self.num_codebooks
        if wrong or reason_left_out({"codes": item.codes}) is not None:
            raise ShapeError(
                f"stream {self.name!r} wants codes [{self.num_codebooks}, *grid] with at least one "
                f"position; got {list(item.codes.shape)}. A layout holds a fixed number of levels."
            )
        for level, size in enumerate(self.codebook_sizes):
            low, high = int(item.codes[level].min()), int(item.codes[level].max())
            if low < 0 or high >= size:
                raise CodeRangeError(
                    f"level {level} of stream {self.name!r} has codes 0 to {size - 1}; codes from "
                    f"{low} to {high} came. Were they shifted into a vocabulary already?"
                )


def reason_left_out(row: Mapping[str, Any]) -> str | None:
    """Why a row cannot be laid out, the word that reports count it by; None if it can be.

    A row without codes says itself why; codes of no position, as those of an empty text, are
    "empty": no pattern holds them.
    """
    if row.get("codes") is None:
        return str(row.get("status") or "empty")
    shape = np.shape(row["codes"]) if row.get("shape") is None else row["shape"]
    return "empty" if 0 in shape else None


def read_item(value: Any) -> CodeItem:
    """Codes in any form in which they come.

    Args:
        value: VQTokens or anything with its three attributes; a mapping with `codes`
            [Q, *grid] and `fingerprint`; or a row of a run with flat `codes`, `shape`, `codes_fp`.

    Raises:
        InputError: something else, or a row without codes.
    """
    if not isinstance(value, Mapping):
        if not all(hasattr(value, name) for name in ("codes", "fingerprint")):
            raise InputError(
                "a layout takes rows of a run, VQTokens, or mappings with codes and fingerprint; "
                f"got {type(value).__name__}."
            )
        value = {name: getattr(value, name, None) for name in ("codes", "meta", "fingerprint")}
    fingerprint = value.get("fingerprint") or value.get("codes_fp")
    if value.get("codes") is None or fingerprint is None:
        raise InputError(
            f"a row without codes or fingerprint (status: {value.get('status', 'none')}) cannot "
            "be laid out. Leave out rows whose status is not ok.",
            status=reason_left_out(value) or "empty",
        )
    codes = _int64(value["codes"])
    if value.get("shape") is not None:
        codes = codes.reshape(_shape(value["shape"], codes.numel()))
    meta = value.get("meta")
    return CodeItem(codes, dict(meta) if isinstance(meta, Mapping) else {}, fingerprint)


def _int64(codes: Any) -> Tensor:
    array = codes.detach().cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    if not np.issubdtype(array.dtype, np.integer):
        raise ShapeError(f"codes must have an integer dtype; got {array.dtype}.")
    return torch.from_numpy(array.astype(np.int64))


def _shape(shape: Sequence[int], count: int) -> list[int]:
    sizes = [int(n) for n in shape]
    if int(np.prod(sizes)) != count:
        raise ShapeError(f"{count} codes came with shape {sizes}; is the row complete?")
    return sizes
