"""What a tokenizer gives back: `VQTokens` for a caller, `VQTokenizerOutput` for a trainer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from vqtok.errors import FingerprintError, InputError, ShapeError

MIN_DIGITS = 16  # of a fingerprint that is cut short


@dataclass
class VQTokenizerOutput(ModelOutput):
    """What `forward` of a tokenizer returns.

    Attributes:
        loss: scalar float32; plain reconstruction loss (L1 + mean squared error) plus the
            quantizer's loss. A trainer may put its own loss together from the rest.
        losses: scalars by name: "l1", "mse", "quantizer" (weighted as in `loss`), and the
            quantizer's unweighted terms.
        codes: [B, Q, *grid] int64.
        reconstruction: the shape of the input.
        latents: [B, *grid, D], before quantization.
        hidden_states: the outputs of the tokenizer's `hidden_layers`, if asked for.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    codes: Tensor | None = None
    reconstruction: Tensor | None = None
    latents: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Rate:
    """What codes cost: `bits` a `per` ("pixel", "second", "byte" or "vector").

    Bits are counted by the tokenizer's `code_bits`, log2 K a code as a rule: an entropy coder can
    only need fewer.
    """

    bits: float
    per: str

    def __str__(self) -> str:
        return f"{self.bits:.4g} bits per {self.per}"


@dataclass(frozen=True, eq=False)
class VQTokens:
    """The codes of one item, with all that decoding it takes.

    Attributes:
        codes: [Q, *grid] int64 on the CPU; nothing in it is padding.
        meta: what the codes do not say (an image's height and width); JSON can hold it.
        fingerprint: `fingerprint.decode` of the tokenizer that made the codes, or its beginning.
    """

    codes: Tensor
    meta: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self):
        if not isinstance(self.codes, Tensor) or self.codes.dtype != torch.int64:
            kind = getattr(self.codes, "dtype", type(self.codes).__name__)
            raise ShapeError(f"VQTokens wants codes as an int64 tensor [Q, *grid]; got {kind}.")
        if self.codes.ndim < 2:
            raise ShapeError(
                "VQTokens wants codes [Q, *grid]: one axis for the codebooks, at least one for "
                f"the grid; got {list(self.codes.shape)}."
            )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "VQTokens":
        """A row of a tokenized dataset, as `vqtok.load_codes` gives it.

        Args:
            row: flat `codes`, their `shape`, `codes_fp`, and where there are some `orig_h`,
                `orig_w` and a JSON text `meta`.

        Raises:
            InputError: another row, or one whose input could not be tokenized.
        """
        missing = [key for key in ("codes", "shape", "codes_fp") if row.get(key) is None]
        if missing:
            status = row.get("status", "none")
            raise InputError(
                f"a row of a tokenized dataset has codes, shape and codes_fp; {missing} are not "
                f"there (its status: {status}). Rows with other statuses than ok have no codes."
            )
        codes = torch.from_numpy(np.asarray(row["codes"]).astype(np.int64))
        sizes = {"height": row.get("orig_h"), "width": row.get("orig_w")}
        meta = json.loads(row.get("meta") or "{}")
        meta |= {key: value for key, value in sizes.items() if value is not None}
        return cls(codes.reshape([int(n) for n in row["shape"]]), meta, row["codes_fp"])


def own_tokens(item: Any, index: int, fingerprint: str) -> VQTokens:
    """An item to be decoded, if the tokenizer with this `decode` digest may decode it.

    Args:
        item: VQTokens, anything with their three attributes, or a row of a tokenized dataset.
        index: its place in the caller's list, for the error.
        fingerprint: of the tokenizer that is to decode.
    """
    if isinstance(item, Mapping):
        item = VQTokens.from_row(item)
    elif not all(hasattr(item, name) for name in ("codes", "meta", "fingerprint")):
        raise InputError(
            f"detokenize wants a list of VQTokens; item {index} is a {type(item).__name__}. "
            "Tensors of codes go to decode()."
        )
    made_by = item.fingerprint or ""
    if len(made_by) < MIN_DIGITS or not fingerprint.startswith(made_by):
        raise FingerprintError(
            f"item {index} was made by the tokenizer {made_by[:MIN_DIGITS] or 'unknown'}, "
            f"this one is {fingerprint[:MIN_DIGITS]}: load the tokenizer that made the codes."
        )
    return VQTokens(item.codes, dict(item.meta or {}), made_by)
