"""A tokenizer of another library behind the face of `VQTokenizerModel`.

    raw ──processor──▶ inputs ──native.encode──▶ codes [B, Q, *grid] ──native.decode──▶ outputs
          the family's own       the family's own class, weights and arithmetic

An adapter holds the native model and calls it: codes and outputs are the native ones, bit by bit.
What it adds is one shape of codes, one name for the number of codebooks, checks, fingerprints, and
raw items in and out. It does not train: a family's own library does that.
"""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from vqtok.errors import ConfigError, ShapeError
from vqtok.models.base import VQTokenizerModel
from vqtok.models.fingerprint import tensor_digest
from vqtok.models.numerics import Call
from vqtok.models.outputs import VQTokenizerOutput, VQTokens
from vqtok.models.reconstruction import crop
from vqtok.models.storage import write_canary
from vqtok.quantizers.base import check_code_values, first_codebooks

GRID_AXES = {"image": "[B, q, h, w]", "audio": "[B, q, T]"}


class AdapterModel(VQTokenizerModel):
    """Base of the adapters; `native` is the other library's model, `config` a copy of its config.

    The three `*_parts` name the native model's children that make up encoder, quantizer and
    decoder; `*_fields` are config fields that codes depend on and that no tensor's shape shows.
    Both are part of the fingerprint, which must not change when the other library renames a
    tensor or adds a field.
    """

    encoder_parts: ClassVar[tuple[str, ...]] = ("encoder",)
    quantizer_parts: ClassVar[tuple[str, ...]] = ("quantizer",)
    decoder_parts: ClassVar[tuple[str, ...]] = ("decoder",)
    encode_fields: ClassVar[tuple[str, ...]] = ()
    decode_fields: ClassVar[tuple[str, ...]] = ()
    can_decode: ClassVar[bool] = True

    def __init__(self, native: nn.Module, processor: Any, config: PreTrainedConfig | None = None):
        config = copy.deepcopy(native.config if config is None else config)
        config._attn_implementation = "eager"  # of this shell; the native model keeps its own
        super().__init__(config)
        self.native = native
        self.processor = processor

    @classmethod
    def load(cls, folder: Path, content: Mapping[str, Any]) -> "AdapterModel":
        """The tokenizer in a folder of the family's own layout; float32, on the CPU.

        Args:
            folder: holds config.json, safetensors, and the processor's options.
            content: of config.json.

        Raises:
            LoadError: the files are damaged, incomplete, or pickles.
        """
        raise NotImplementedError(f"{cls.__name__} must define load.")

    @classmethod
    def fresh(cls, config: PreTrainedConfig) -> "AdapterModel":
        """A native model with random weights behind this face; it encodes, but means nothing."""
        raise NotImplementedError(f"{cls.__name__} must define fresh.")

    @classmethod
    def weight_names(cls, weight_map: Mapping[str, str]) -> list[str]:
        """The files to fetch from a repository, by the weight_map of its index or an empty one."""
        return sorted(set(weight_map.values())) or ["model.safetensors"]

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Refused: a foreign folder goes through the checks of `AutoVQTokenizer`."""
        raise ConfigError(f"load a {cls.__name__} with AutoVQTokenizer.from_pretrained(...).")

    # What the tokenizer is.

    @property
    def encoder(self) -> nn.Module:
        return self.native.get_submodule(self.encoder_parts[0])

    @property
    def quantizer(self) -> nn.Module:
        return self.native.get_submodule(self.quantizer_parts[0])

    @property
    def decoder(self) -> nn.Module:
        return self.native.get_submodule(self.decoder_parts[0])

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        raise NotImplementedError(f"{type(self).__name__} must define codebook_sizes.")

    @property
    def code_bits(self) -> tuple[float, ...]:
        return tuple(math.log2(size) for size in self.codebook_sizes)

    def code_config(self, encoder: bool) -> dict[str, Any]:
        """Config fields that count for the fingerprint: the encoder's, or those of decoding."""
        names = self.encode_fields if encoder else self.decode_fields
        return {name: getattr(self.config, name) for name in names}

    def part_digests(self, part: str) -> dict[str, str]:
        """Digests of the tensors of "encoder", "quantizer" or "decoder", numbered in order."""
        children = dict(self.native.named_children())
        names = [name for name in getattr(self, f"{part}_parts") if name in children]
        tensors = [tensor for name in names for tensor in children[name].state_dict().values()]
        return {f"{part}.{index}": tensor_digest(tensor) for index, tensor in enumerate(tensors)}

    def encoder_calls(self) -> Sequence[Call]:
        children = dict(self.native.named_children())
        return [(children[name], "forward") for name in self.encoder_parts if name in children]

    def _cast(self, dtype: torch.dtype) -> None:
        self.native.to(dtype)

    # Tensors in, tensors out.

    def encode(self, inputs: Tensor, num_codebooks: int | None = None) -> Tensor:
        """What the native model's encode gives for the same inputs, as codes [B, q, *grid] int64.

        Args:
            inputs: [B, C, H, W] or [B, C, T] as the family's processor makes them.
            num_codebooks: keep only the first codebooks; None: all of them.
        """
        self._check_inputs(inputs)
        return self._native_encode(inputs.to(self.dtype), self.levels(num_codebooks))

    def decode(self, codes: Tensor) -> Tensor:
        """What the native model's decode gives for codes [B, q, *grid] int64, q <= Q.

        Raises:
            CodeRangeError: a code that the codebook does not have (looked at on the CPU only).
        """
        self.check_codes(codes)
        return self._native_decode(codes)

    def forward(self, inputs: Tensor, return_dict: bool | None = None) -> VQTokenizerOutput | tuple:
        """Codes and reconstruction, cropped to the inputs' size; no losses, evaluation only."""
        if self.training:
            raise ConfigError(
                f"{type(self).__name__} does not train: call eval() for codes and reconstruction, "
                f"or train {type(self.native).__name__} with its own library."
            )
        self._check_inputs(inputs)
        codes, output = self._round_trip(inputs.to(self.dtype))
        output = None if output is None else crop(output, inputs.shape)
        result = VQTokenizerOutput(codes=codes, reconstruction=output)
        return result.to_tuple() if return_dict is False else result

    def levels(self, num_codebooks: int | None) -> int:
        """How many codebooks a call uses; refuses a number that the tokenizer does not have."""
        return first_codebooks(num_codebooks, self.num_codebooks)

    def check_codes(self, codes: Tensor) -> None:
        """Shape and dtype always; the range only where looking does not stall a device."""
        axes, sizes = GRID_AXES[self.modality], self.codebook_sizes
        if codes.ndim != axes.count(",") + 1 or not 1 <= codes.shape[1] <= len(sizes):
            raise ShapeError(
                f"{type(self).__name__} wants codes {axes} with 1 <= q <= {len(sizes)}; "
                f"got {list(codes.shape)}."
            )
        check_code_values(codes.movedim(1, -1), sizes)

    # Files.

    def save_pretrained(
        self, save_directory: str | os.PathLike, dtype: torch.dtype | None = None, **kwargs
    ) -> None:
        """Writes the family's own layout, which its own library reads, and canary.json.

        Args:
            save_directory: the folder; made if it is not there.
            dtype: refused; the native model is saved as it is.
            kwargs: those of the native `save_pretrained`.
        """
        if kwargs.get("push_to_hub"):
            self.push_to_hub(str(save_directory))
        if dtype is not None:
            raise ConfigError(
                f"an adapter saves its weights as they are; cast tok.native to {dtype} first."
            )
        self.native.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        write_canary(self, save_directory)

    # What a family says.

    def _native_encode(self, inputs: Tensor, levels: int) -> Tensor:
        """Inputs in the model's dtype to codes [B, levels, *grid]."""
        raise NotImplementedError(f"{type(self).__name__} must define _native_encode.")

    def _native_decode(self, codes: Tensor) -> Tensor:
        """Checked codes to outputs [B, C, ...]."""
        raise NotImplementedError(f"{type(self).__name__} must define _native_decode.")

    def _round_trip(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        codes = self._native_encode(inputs, self.num_codebooks)
        return codes, self._native_decode(codes) if self.can_decode else None

    # Raw items.

    def _read(self, item: Any) -> tuple[Tensor, dict[str, Any]]:
        return self.processor.read(item)

    def _write(self, output: Tensor, meta: dict[str, Any]) -> Any:
        return self.processor.write(output, meta)

    def _decode_item(self, item: VQTokens) -> Tensor:
        self.check_codes(item.codes[None])
        return self.decode(item.codes[None].to(self.device))[0]

    def hidden_layers(self) -> Sequence[nn.Module]:
        """None: ask `native` for them."""
        return ()
