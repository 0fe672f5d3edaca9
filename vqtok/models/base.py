"""The face that every tokenizer shares: encoder, quantizer and decoder behind one set of methods.

    raw ──_read──▶ inputs ──encoder──▶ latents ──quantizer──▶ codes
                                                             └──decoder──▶ outputs ──_write──▶ raw

A subclass builds `encoder`, `quantizer` and `decoder`, calls `post_init()`, names its modality and
says in `_read` and `_write` what its raw items are. The model only arranges the three parts.

Shapes: inputs [B, C, H, W] or [B, C, T]; latents [B, *grid, D]; codes [B, Q, *grid] int64.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vqtok.errors import ConfigError, ShapeError, VqtokError
from vqtok.models.fingerprint import Fingerprint, FingerprintCache
from vqtok.models.initialization import start
from vqtok.models.items import (
    PreparedItem,
    auto_batch_size,
    batches_of_one_size,
    check_batch_size,
    check_items,
)
from vqtok.models.numerics import Numerics
from vqtok.models.outputs import Rate, VQTokenizerOutput, VQTokens, own_tokens
from vqtok.models.reconstruction import crop, outputs_of, reconstruction_losses
from vqtok.models.storage import refreeze, rounded_copy, write_canary

__all__ = ["Rate", "VQTokenizerModel", "VQTokenizerOutput", "VQTokens"]

INPUT_AXES = {"image": "[B, C, H, W]", "audio": "[B, C, T]"}
# arguments of from_pretrained that say where files are
HUB_ARGUMENTS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")


class VQTokenizerModel(Numerics, PreTrainedModel):
    """Base of all tokenizers.

    Attributes:
        modality: "image", "audio", "text" or "embedding".
        encoder: inputs to latents [B, *grid, D].
        quantizer: a `vqtok.quantizers.Quantizer`.
        decoder: latents to outputs, at least as large as the inputs were.
        processor_class: turns raw items into tensors and back, and keeps its options beside the
            weights; `code_options()` are those that codes depend on. None: there are no options.
    """

    modality: ClassVar[str] = "image"
    # counts up when the same weights would give other codes; part of every fingerprint
    architecture_version: ClassVar[int] = 1
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    base_model_prefix = "tokenizer"
    processor_class: ClassVar[type | None] = None
    # models know nothing of datasets: the package's roof (vqtok/__init__.py) fills this in
    dataset_runner: ClassVar[Callable | None] = None

    def __init__(self, config):
        super().__init__(config)
        self._processor = None
        self._fingerprints = FingerprintCache()

    # What the tokenizer is.

    @property
    def num_codebooks(self) -> int:
        return self.quantizer.num_codebooks

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return tuple(self.quantizer.codebook_sizes)

    @property
    def code_bits(self) -> tuple[float, ...]:
        """Bits of one code of each codebook; log2 K, or less where the place narrows it."""
        return self.quantizer.code_bits

    @property
    def rate(self) -> Rate:
        """Bits that the codes cost."""
        raise NotImplementedError(f"{type(self).__name__} must define rate.")

    @property
    def hop(self) -> int:
        """Input steps (pixels, samples) under one code, along each axis of the grid."""
        raise NotImplementedError(f"{type(self).__name__} must define hop.")

    @property
    def fingerprint(self) -> Fingerprint:
        """Digests of what the tokenizer computes; see `vqtok.models.fingerprint`."""
        return self._fingerprints.of(self)

    def fingerprint_held(self) -> AbstractContextManager[None]:
        """For loops that leave the tensors alone: inside, nobody looks whether they changed."""
        return self._fingerprints.held(self)

    @property
    def processor(self):
        """Turns raw items into tensors and back, with the options it was saved with."""
        if self._processor is None and self.processor_class is not None:
            self._processor = self.processor_class()
        return self._processor

    @processor.setter
    def processor(self, processor) -> None:
        if self.processor_class is None or not isinstance(processor, self.processor_class):
            wanted = self.processor_class and self.processor_class.__name__
            raise ConfigError(f"processor must be a {wanted}; got {type(processor).__name__}.")
        self._processor = processor

    @property
    def device(self) -> torch.device:
        """Of the first tensor; a tokenizer may hold buffers only."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    def hidden_layers(self) -> Sequence[nn.Module]:
        """Modules whose outputs are `hidden_states`, in the order in which they run."""
        return ()

    # Tensors in, tensors out.

    def encode(self, inputs: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Inputs to codes [B, Q, *grid] int64.

        Runs as it is called: under autocast, or in training mode, other codes come out than from
        `tokenize`, which runs exactly (see `inference`).

        Args:
            inputs: [B, C, H, W] or [B, C, T], float, of any size.
            num_codebooks: keep only the first codebooks; the same codes, but fewer.
        """
        self._check_inputs(inputs)
        latents = self.encoder(inputs.to(self.dtype))
        return self.quantizer.encode(latents, num_codebooks).movedim(-1, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, q, *grid] int64, q <= Q, to outputs; a whole number of `hop`s on each axis.

        Raises:
            CodeRangeError: a code that the codebook does not have (looked at on the CPU only).
        """
        if codes.ndim < 3 or 0 in codes.shape[1:]:
            raise ShapeError(
                f"decode wants codes [B, q, *grid], none of them empty; got {list(codes.shape)}."
            )
        return self.decoder(self.quantizer.decode(codes.movedim(1, -1)).to(self.dtype))

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> VQTokenizerOutput | tuple:
        """Encode, quantize and decode with gradients.

        Args:
            inputs: [B, C, H, W] or [B, C, T], float.
            mask: [B, *grid] bool, True where a position counts, in losses and in statistics.
            output_hidden_states: also return the outputs of `hidden_layers`.
            return_dict: False gives a tuple.
        """
        self._check_inputs(inputs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        with outputs_of(self.hidden_layers() if output_hidden_states else ()) as hidden_states:
            latents = self.encoder(inputs.to(self.dtype))
            quantized = self.quantizer(latents, mask)
            reconstruction = crop(self.decoder(quantized.quantized.to(self.dtype)), inputs.shape)
        losses = reconstruction_losses(reconstruction, inputs, mask, self.hop)
        loss = sum(losses.values()) + quantized.loss
        output = VQTokenizerOutput(
            loss=loss,
            losses=losses | {"quantizer": quantized.loss} | quantized.losses,
            codes=quantized.codes.movedim(-1, 1),
            reconstruction=reconstruction,
            latents=latents,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    # Raw items in, raw items out.

    def tokenize(
        self, items: Sequence[Any], batch_size: int | None = 1, num_codebooks: int | None = None
    ) -> list[VQTokens]:
        """Raw items to codes; every item keeps its own size, nothing is padded into the codes.

        Args:
            items: a list of images, sounds, texts or vectors, as the tokenizer's `_read` says, or
                of what `prepare` gave.
            batch_size: how many items of one size go through the encoder together. With 1, the
                default, the codes of an item are the same whatever its company. Above, a device
                may add up in another order, and a latent halfway between two codes may flip.
                None: as many as pay, see `auto_batch_size`.
            num_codebooks: keep only the first codebooks.

        Raises:
            InputError: an item that cannot be read; `.status` says in a word what is wrong.
        """
        check_items(items, "tokenize")
        check_batch_size(batch_size)
        fingerprint = self.fingerprint.decode
        tokens: list[VQTokens | None] = [None] * len(items)
        with self.inference():
            batches = batches_of_one_size(items, self._read, batch_size, self.auto_batch_size)
            for batch, size in batches:
                inputs = torch.stack([tensor for _, tensor, _ in batch])
                # one shape for every batch of a size: the last is filled up with copies
                if missing := size - len(batch):
                    inputs = torch.cat([inputs, inputs[:1].repeat_interleave(missing, 0)])
                metas = [meta for _, _, meta in batch]
                codes = self._encode_items(inputs.to(self.device), metas, num_codebooks).cpu()
                for (index, _, meta), item_codes in zip(batch, codes, strict=False):
                    tokens[index] = VQTokens(item_codes.clone(), meta, fingerprint)
        return tokens

    def prepare(self, item: Any) -> Any:
        """The part of `tokenize` that needs no encoder; threads may call it side by side.

        Args:
            item: a raw item.

        Returns:
            What `tokenize` takes in its place, and only that.

        Raises:
            InputError: an item that cannot be read.
        """
        return PreparedItem(*self._read(item))

    def auto_batch_size(self, shape: Sequence[int]) -> int:
        """How many inputs of this shape [C, ...] `batch_size=None` puts together, on this device:
        many small images, or vectors, one large image or one sound."""
        return auto_batch_size(self.modality, shape, self.device.type)

    @staticmethod
    def on_step() -> None:
        """Called between the steps of one long input; whoever waits may put their own here."""

    def detokenize(self, tokens: Sequence[VQTokens | Mapping[str, Any]]) -> list[Any]:
        """Codes to raw items, each with the size that it had.

        Args:
            tokens: what `tokenize` gave, rows of `vqtok.load_codes`, or codes that a prior made,
                with an empty `meta`: they are decoded to the end of the last patch or frame.

        Raises:
            FingerprintError: the codes were made by another tokenizer.
            CodeRangeError: a code that the codebook does not have.
        """
        check_items(tokens, "detokenize")
        decode = self.fingerprint.decode
        items = [own_tokens(item, index, decode) for index, item in enumerate(tokens)]
        raw = []
        with self.inference():
            for item in items:
                raw.append(self._write(self._decode_item(item).float().cpu(), item.meta))
        return raw

    def tokenize_dataset(self, source, out, **options):
        """The codes of a whole dataset as a folder of parquet; see `vqtok.data.tokenize_dataset`.

        Args:
            source: a folder of files, parquet files, or what else `vqtok tokenize` takes.
            out: the folder to write.
            options: passed on to `vqtok.data.tokenize_dataset`.
        """
        runner = type(self).dataset_runner
        if runner is None:
            raise ConfigError("tokenize_dataset needs the whole package: `import vqtok` first.")
        return runner(source, out, self, **options)

    # Files.

    def save_pretrained(
        self, save_directory: str | os.PathLike, dtype: torch.dtype | None = None, **kwargs
    ) -> None:
        """Writes config.json, model.safetensors, preprocessor_config.json and canary.json.

        Args:
            save_directory: the folder; made if it is not there.
            dtype: store floating weights of encoder and decoder as this, for a smaller file; the
                codebooks stay as they are. Loading gives float32 again unless told otherwise.
            kwargs: those of transformers' `save_pretrained`.
        """
        if kwargs.get("push_to_hub"):
            self.push_to_hub(str(save_directory))
        if dtype is not None:
            rounded, state = rounded_copy(self, dtype)
            rounded.save_pretrained(save_directory, state_dict=state, **kwargs)
            return
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            if self.processor is not None:
                self.processor.save_pretrained(save_directory)
            write_canary(self, save_directory)

    def push_to_hub(self, *args, **kwargs):
        """Refused: transformers would write a card that calls the repository a transformers one."""
        raise VqtokError(
            "vqtok does not push to the Hub by itself: call save_pretrained(folder), write the "
            "card with its licence, then run `hf upload NAME/REPO folder`."
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers, and with the processor that lies beside the weights.

        `AutoVQTokenizer.from_pretrained` is the strict way: it checks every file before use.
        """
        kwargs.setdefault("use_safetensors", True)  # never a pickle
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        refreeze(model)
        where = {k: kwargs[k] for k in HUB_ARGUMENTS if kwargs.get(k) is not None}
        if cls.processor_class is not None and pretrained_model_name_or_path is not None:
            # no preprocessor_config.json: the defaults stand
            with suppress(OSError):
                model.processor = cls.processor_class.from_pretrained(
                    pretrained_model_name_or_path, **where
                )
        return loaded

    # What a subclass says about its raw items.

    def _read(self, item: Any) -> tuple[Tensor, dict[str, Any]]:
        """A raw item to a tensor (no batch axis, on the CPU) and its meta."""
        raise NotImplementedError(f"{type(self).__name__} must define _read.")

    def _write(self, output: Tensor, meta: dict[str, Any]) -> Any:
        """A decoded tensor (float32, no batch axis, on the CPU) and its meta to a raw item."""
        raise NotImplementedError(f"{type(self).__name__} must define _write.")

    def _encode_items(
        self, inputs: Tensor, metas: Sequence[dict[str, Any]], num_codebooks: int | None
    ) -> Tensor:
        """Codes of a batch; may add to the metas, which are fewer where copies fill it up."""
        return self.encode(inputs, num_codebooks)

    def _decode_item(self, item: VQTokens) -> Tensor:
        """The codes of one item to an output without batch axis."""
        # the range is looked at before the codes leave the CPU: a device would only crash
        self.quantizer.check_codes(item.codes.movedim(0, -1))
        return self.decode(item.codes[None].to(self.device))[0]

    def canary_inputs(self) -> Tensor:
        """Inputs [N, ...] made of integers, whose codes are stored beside the weights."""
        raise NotImplementedError(f"{type(self).__name__} must define canary_inputs.")

    # Inside.

    def _tensors(self) -> Iterator[Tensor]:
        return chain(self.parameters(), self.buffers())

    def _check_inputs(self, inputs: Tensor) -> None:
        axes = INPUT_AXES.get(self.modality)
        if axes is None:
            return
        wrong = inputs.ndim != axes.count(",") + 1 or 0 in inputs.shape[1:]
        if wrong or not inputs.is_floating_point():
            raise ShapeError(
                f"{type(self).__name__} wants float {axes}; got {inputs.dtype} "
                f"{list(inputs.shape)}. tokenize() takes raw items."
            )

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, or transformers would never start a module that has no tensors of its own."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fills every tensor of a module; transformers calls it for what no file fills."""
        if not start(module):
            super()._init_weights(module)
