"""Text to codes and back: bytes in patches of four, residual codebooks, bytes again.

    bytes [B, L], 0 to 255                                       bytes [B, T P]
       │ PAD to whole patches of P                                  ▲ the likeliest
    byte embedding, one linear map a patch                      logits [B, T P, 256]
       │ residual MLP blocks                                        ▲ linear
    linear D ─────── quantizer ──────────────────────────────▶ linear, residual MLP blocks
                        │ ▲
                     codes [B, Q, T], T = ceil(L / P)

| preset | width | blocks | D  | parameters without codebooks |
|--------|-------|--------|----|------------------------------|
| nano   | 16    | 1 + 1  | 8  | 12 thousand                  |
| tiny   | 32    | 1 + 1  | 8  | 18 thousand                  |
| small  | 256   | 2 + 2  | 16 | 0.6 million                  |

A patch sees its own bytes and nothing else. That makes everything else simple: any cut at a patch
gives the same codes as the whole, texts of different lengths go together without a trace of each
other, and equal patches are worked on once (`Patches`), so common text is several times as fast.

What the decoder gets wrong is written beside the codes (`escapes`), so a text always comes back as
it was. The decoder computes in float32 whatever the model's dtype, and a byte that wins by less
than `LEAST_MARGIN` is escaped too, because another machine might decide it the other way; a
checksum tells if one ever does.

A fresh model knows every byte by its digits (`digits_of`). Codebooks started on the frequent pairs
of bytes (`start_codebooks`) make it a working tokenizer at once; gradient steps from there have
gained less than 0.0002 of the bytes so far, and large ones lose. Not good at: compression (gzip
takes about half the bits or less, BPE a fifth to two fifths less), and scripts that it was not
started on.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.errors import FormatError, InputError, ShapeError
from vqtok.models.base import VQTokenizerModel
from vqtok.models.items import check_batch_size, check_items
from vqtok.models.outputs import Rate, VQTokenizerOutput, VQTokens, own_tokens
from vqtok.models.reconstruction import outputs_of
from vqtok.models.text_vq.configuration_text_vq import TextVQConfig
from vqtok.models.text_vq.escapes import apply_escapes, escape_bytes, write_escapes
from vqtok.models.text_vq.networks_text_vq import TextVQDecoder, TextVQEncoder, likeliest
from vqtok.models.text_vq.spans import level_spans, spell
from vqtok.models.text_vq.text_processing_text_vq import (
    PAD,
    Patches,
    distinct_codes,
    read_text,
    to_patches,
    write_text,
)
from vqtok.quantizers import build_quantizer
from vqtok.quantizers.residual import ResidualQuantizer

LEAST_MARGIN = 0.25  # logits; float32 on two machines differs by less than a hundredth
PIECE_PATCHES = 2**18  # of a long text, worked on together
ENCODE_ROWS = 2**14
LOGIT_ROWS = 512  # on a CPU: 2 MB of logits stay in the cache
TEXTS_TOGETHER = 16  # by default, where the caller leaves it open
HEADER_BITS = 64  # length and checksum of a text, as two 32-bit numbers


class TextVQModel(VQTokenizerModel):
    """Texts to codes and back, exactly; see the module's text for the picture.

    A raw item is a str, UTF-8 as bytes, or a path object; `detokenize` gives str.
    """

    config: TextVQConfig
    config_class = TextVQConfig
    modality = "text"
    main_input_name = "byte_values"
    input_modalities = ("text",)

    def __init__(self, config: TextVQConfig):
        super().__init__(config)
        # overrides in from_pretrained skip the checks
        config.validate_sizes()
        config.validate_quantizer()
        self.encoder = TextVQEncoder(config)
        self.quantizer = build_quantizer(dim=config.latent_dim, **config.quantizer_config)
        self.decoder = TextVQDecoder(config)
        self.post_init()

    @property
    def rate(self) -> Rate:
        """Of the codes; `bits_of` counts the escapes of a text too."""
        return Rate(bits=sum(self.code_bits) / self.config.patch_bytes, per="byte")

    @property
    def hop(self) -> int:
        return self.config.patch_bytes

    def hidden_layers(self) -> Sequence[nn.Module]:
        """The blocks of the encoder, then those of the decoder."""
        return [*self.encoder.blocks, *self.decoder.blocks]

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.embedding = value

    # Tensors in, tensors out.

    def encode(self, byte_values: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Bytes [B, L] int64 to codes [B, Q, ceil(L / P)] int64.

        Args:
            byte_values: 0 to 255, and PAD = 256 behind the end of a shorter text; positions that
                hold nothing but PAD have codes too, which are not part of its text.
            num_codebooks: keep only the first codebooks.
        """
        self._check_inputs(byte_values)
        return self.quantizer.encode(self.encoder(byte_values), num_codebooks).movedim(-1, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, q, T] int64, q <= Q, to the likeliest bytes, int64 [B, T P].

        Raises:
            CodeRangeError: a code that the codebook does not have (looked at on the CPU only).
        """
        return likeliest(self.logits(codes))

    def logits(self, codes: Tensor) -> Tensor:
        """Codes [B, q, T] int64, q <= Q, to a score for every byte, float32 [B, T P, 256]."""
        if codes.ndim != 3:
            raise ShapeError(f"codes of text are [B, q, T]; got {list(codes.shape)}.")
        return self.decoder(self.quantizer.decode(codes.movedim(1, -1))).flatten(1, 2)

    def forward(
        self,
        byte_values: Tensor,
        mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> VQTokenizerOutput | tuple:
        """Bytes to codes, logits and losses.

        Args:
            byte_values: int64 [B, L], 0 to 255, or PAD = 256, which counts nowhere.
            mask: [B, T] bool, True where a patch counts in losses and statistics.
            output_hidden_states: also give the output of every block, [B, T, width].
            return_dict: False gives a tuple.

        Returns:
            `reconstruction` are logits, float32 [B, L, 256]; `losses["bytes"]` is their cross
            entropy in nats.
        """
        self._check_inputs(byte_values)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return_dict = self.config.return_dict if return_dict is None else return_dict
        with outputs_of(self.hidden_layers() if output_hidden_states else ()) as hidden_states:
            latents = self.encoder(byte_values)
            quantized = self.quantizer(latents, self._counted(byte_values, mask))
            logits = self.decoder(quantized.quantized.float()).flatten(1, 2)
        logits = logits[:, : byte_values.shape[1]].float()
        loss = self._cross_entropy(logits, byte_values, mask)
        output = VQTokenizerOutput(
            loss=loss + quantized.loss,
            losses={"bytes": loss, "quantizer": quantized.loss} | quantized.losses,
            codes=quantized.codes.movedim(-1, 1),
            reconstruction=logits,
            latents=latents,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    def _counted(self, byte_values: Tensor, mask: Tensor | None) -> Tensor:
        """[B, T] bool: patches with a byte in them that the mask does not leave out."""
        there = (to_patches(byte_values, self.hop) != PAD).any(-1)
        return there if mask is None else there & mask

    def _cross_entropy(self, logits: Tensor, byte_values: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            left_out = ~mask.repeat_interleave(self.hop, 1)[:, : byte_values.shape[1]]
            byte_values = byte_values.masked_fill(left_out, PAD)
        total = F.cross_entropy(
            logits.flatten(0, 1), byte_values.flatten(), ignore_index=PAD, reduction="sum"
        )
        return total / (byte_values != PAD).sum().clamp(min=1)

    @torch.no_grad()
    def start_codebooks(self, byte_values: Tensor) -> None:
        """Starts the codebooks on text, without a gradient; for a model that is not yet trained.

        Residual levels take the frequent spans of bytes (`vqtok.models.text_vq.spans`) and are
        frozen then: running means would move the codes of the first level to the mean of what the
        second one spells. Other quantizers, and levels that are too many or too few for spans,
        start by k-means and go on learning.

        Args:
            byte_values: int64 [B, L], as for `encode`; those of this process.
        """
        self._check_inputs(byte_values)
        patches = to_patches(byte_values, self.hop).flatten(0, 1)
        spans = level_spans(self.hop, self.num_codebooks)
        if spans is None or type(self.quantizer) is not ResidualQuantizer:
            self.quantizer.initialize(self.encoder(patches)[:, 0].float())
        else:
            spell(self.quantizer.codebooks, spans, patches, self.encoder)
            self.quantizer.freeze()

    # Raw items.

    def tokenize(
        self,
        items: Sequence[Any],
        batch_size: int | None = 1,
        num_codebooks: int | None = None,
        lossless: bool = True,
    ) -> list[VQTokens]:
        """Texts to codes [Q, ceil(L / P)], L the length in UTF-8 bytes; "" has none: [Q, 0].

        Args:
            items: a list of str, UTF-8 bytes or path objects.
            batch_size: how many texts, of any lengths, go through the encoder together; short
                texts are quicker in company. They do not see each other, but a device may add up
                in another order, and a latent halfway between two codes may flip. None: 16.
            num_codebooks: keep only the first codebooks.
            lossless: put into `meta` what it takes to give every text back exactly: `escapes`,
                the bytes that the decoder gets wrong, and `crc32`. Without, `detokenize` gives
                what the codes say.

        Raises:
            InputError: an item that is no text.
        """
        check_items(items, "tokenize")
        check_batch_size(batch_size)
        batch_size = batch_size or TEXTS_TOGETHER
        fingerprint, tokens = self.fingerprint.decode, []
        with self.inference():
            for start in range(0, len(items), batch_size):
                texts = [read_text(item) for item in items[start : start + batch_size]]
                results = [([], []) for _ in texts]
                for group in self._pieces(texts):
                    found = self._work_on([piece for _, piece in group], num_codebooks, lossless)
                    for (index, _), parts in zip(group, found, strict=True):
                        for whole, part in zip(results[index], parts, strict=True):
                            whole.append(part)
                for text, (codes, wrong) in zip(texts, results, strict=True):
                    meta = {"bytes": text.size}
                    if lossless:
                        meta["crc32"] = zlib.crc32(text)
                        escapes = write_escapes(np.flatnonzero(np.concatenate(wrong)), text)
                        meta |= {"escapes": escapes} if escapes else {}
                    joined = torch.from_numpy(np.concatenate(codes).T.copy())
                    tokens.append(VQTokens(joined, meta, fingerprint))
        return tokens

    def prepare(self, item: Any) -> Any:
        """A text is ready as it is."""
        return item

    def detokenize(self, tokens: Sequence[VQTokens | Mapping[str, Any]]) -> list[str]:
        """Codes to texts; those tokenized without a loss come back as they were.

        Args:
            tokens: what `tokenize` gave, rows of `vqtok.load_codes`, or codes from elsewhere with
                an empty `meta`, which are decoded to their last byte.

        Raises:
            FingerprintError: the codes were made by another tokenizer.
            CodeRangeError: a code that the codebook does not have.
            FormatError: `meta` does not belong to the codes, or the checksum differs.
        """
        check_items(tokens, "detokenize")
        decode = self.fingerprint.decode
        items = [own_tokens(item, index, decode) for index, item in enumerate(tokens)]
        for item in items:
            if item.codes.ndim != 2:
                raise ShapeError(f"codes of a text are [q, T]; got {list(item.codes.shape)}.")
            self.quantizer.check_codes(item.codes.movedim(0, -1))
        data: list[np.ndarray] = [np.zeros(0, np.uint8)] * len(items)
        with self.inference():
            # texts with equally many levels go together: equal codes are worked on once
            for levels in {item.codes.shape[0] for item in items}:
                places = [i for i, item in enumerate(items) if item.codes.shape[0] == levels]
                codes = torch.cat([items[i].codes for i in places], 1)
                ends = np.cumsum([items[i].codes.shape[1] * self.hop for i in places])
                for i, own in zip(places, np.split(self._bytes(codes), ends[:-1]), strict=True):
                    data[i] = own
        return [self._write(own, item.meta) for own, item in zip(data, items, strict=True)]

    def bits_of(self, item: VQTokens) -> float:
        """What a text costs: its codes and, if it was tokenized without a loss, its escapes (as
        bytes, before base64), its length and its checksum."""
        levels, count = item.codes.shape
        exact = 8 * escape_bytes(item.meta.get("escapes", "")) + HEADER_BITS
        return sum(self.code_bits[:levels]) * count + (exact if "crc32" in item.meta else 0)

    def _pieces(self, texts: list[np.ndarray]) -> Iterator[list[tuple[int, np.ndarray]]]:
        """(place in `texts`, piece of it), in groups of at most PIECE_PATCHES patches."""
        limit = PIECE_PATCHES * self.hop
        group, size = [], 0
        for index, text in enumerate(texts):
            for start in range(0, max(1, text.size), limit):
                piece = text[start : start + limit]
                if group and size + piece.size > limit:
                    yield group
                    group, size = [], 0
                group.append((index, piece))
                size += piece.size
        yield group

    def _work_on(
        self, pieces: list[np.ndarray], num_codebooks: int | None, lossless: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For every piece uint8 [L] its codes int64 [T, q] and bool [L], what to escape."""
        patches = Patches(pieces, self.hop)
        rows = patches.rows.to(self.device)
        codes = torch.cat(
            [
                self.quantizer.encode(self.encoder(part)[:, 0], num_codebooks)
                for part in rows.split(ENCODE_ROWS)
            ]
        )
        of_pieces = patches.of_texts(codes.cpu().numpy())
        if not lossless:
            return [(own, np.zeros(0, bool)) for own in of_pieces]
        size = self._logit_rows()
        blocks = zip(rows.split(size), codes.split(size), strict=True)
        wrong = torch.cat([self._to_escape(*block) for block in blocks])
        return [
            (own, escaped.ravel()[: piece.size])
            for own, escaped, piece in zip(
                of_pieces, patches.of_texts(wrong.cpu().numpy()), pieces, strict=True
            )
        ]

    def _to_escape(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Bytes of patches [m, P] that their codes [m, q] do not give back with certainty."""
        logits = self.decoder(self.quantizer.decode(codes))
        right = rows.clamp(max=logits.shape[-1] - 1)[..., None]  # PAD is cut off later
        score = logits.gather(-1, right)[..., 0]
        others = logits.scatter_(-1, right, -torch.inf).amax(-1)
        return ~(score - others >= LEAST_MARGIN)

    def _logit_rows(self) -> int:
        return LOGIT_ROWS if self.device.type == "cpu" else ENCODE_ROWS

    def _bytes(self, codes: Tensor) -> np.ndarray:
        """The likeliest bytes of codes [q, T], uint8 [T P]."""
        parts = [np.zeros((0, self.hop), np.uint8)]
        for piece in codes.split(PIECE_PATCHES, 1):
            different, inverse = distinct_codes(piece.numpy(), self.codebook_sizes)
            rows = torch.from_numpy(different).T.to(self.device)
            blocks = rows.split(self._logit_rows())
            found = [likeliest(self.decoder(self.quantizer.decode(block))) for block in blocks]
            parts.append(torch.cat(found).cpu().numpy().astype(np.uint8)[inverse])
        return np.concatenate(parts).ravel()

    def _write(self, data: np.ndarray, meta: dict[str, Any]) -> str:
        room = data.size
        size = meta.get("bytes", room)
        if not isinstance(size, int) or not room - self.hop < size <= room or size < 0:
            raise FormatError(
                f"the codes are of a text of {room} bytes, less at most {self.hop - 1}; "
                f"meta says {size!r}."
            )
        if "crc32" not in meta:
            return write_text(data[:size], exact=False)
        data = apply_escapes(meta.get("escapes", ""), data[:size])
        if zlib.crc32(data) != meta["crc32"]:
            raise FormatError(
                "the text did not come back as it was (its checksum differs): the codes or their "
                "meta were changed, levels were cut off after tokenizing, or this machine computes "
                "too differently from the one that made them. Without crc32 and escapes in meta, "
                "detokenize gives what the codes say."
            )
        return write_text(data, exact=True)

    def _check_inputs(self, inputs: Tensor) -> None:
        if inputs.ndim != 2 or inputs.dtype != torch.int64:
            raise ShapeError(
                f"{type(self).__name__} wants bytes int64 [B, L]; got {inputs.dtype} "
                f"{list(inputs.shape)}. tokenize() takes texts."
            )
        # looked at where looking does not stall a device
        if inputs.device.type == "cpu" and inputs.numel():
            low, high = (int(value) for value in inputs.aminmax())
            if low < 0 or high > PAD:
                raise InputError(f"bytes are 0 to 255, and {PAD} is padding; got {low} to {high}.")

    def canary_inputs(self) -> Tensor:
        """Ramps and products of integers, [8, 64]: no library draws them differently."""
        row, column = torch.arange(8)[:, None], torch.arange(64)
        letters = 97 + (column * (row + 3) + column**2) % 26
        return torch.where(row < 6, letters, (row * 37 + column * column * 11) % 256)
