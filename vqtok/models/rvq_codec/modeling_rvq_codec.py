"""The RVQ codec: an audio tokenizer of convolutions around residual codebooks.

    samples [B, C, S] ─ encoder ─▶ latents [B, T, D] ─ quantizer ─▶ codes [B, Q, T]
                                                         └─ decoder ─▶ samples [B, C, T hop]

`vqtok.models.rvq_codec.networks` draws the encoder and the decoder.

| preset | rate     | hop | codes                     | parameters without codebooks |
|--------|----------|-----|---------------------------|------------------------------|
| nano   | 16 kHz   | 216 | 8 x 1,024, 5.9 kbit/s     | 0.2 M                        |
| 16khz  | 16 kHz   | 216 | 8 x 1,024, 5.9 kbit/s     | 3.0 M                        |
| 24khz  | 24 kHz   | 320 | 8 x 1,024, 6.0 kbit/s     | 8.6 M                        |
| 44khz  | 44.1 kHz | 512 | 9 x 1,024, 7.8 kbit/s     | 15 M                         |

Every layer sees zeros before and after its signal, and carries on exactly what the pieces to come
need: a sound may be coded in pieces of any length with the same codes (`chunk_samples`, `stream`).
Fewer levels are a lower rate. Not good at: sounds unlike those it was trained on; exact phases.

Sources: Zeghidour et al. 2021 (SoundStream), arXiv 2107.03312, the residual codebooks and their
dropout; Siuzdak 2023 (Vocos), arXiv 2306.00814, the spectral decoder.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqtok.errors import ConfigError, FormatError, LoadError, ShapeError
from vqtok.models.audio import integer_sounds
from vqtok.models.base import VQTokenizerModel
from vqtok.models.items import PreparedItem, check_items
from vqtok.models.numerics import Call
from vqtok.models.outputs import Rate, VQTokenizerOutput, VQTokens
from vqtok.models.rvq_codec.audio_processing_rvq_codec import RVQCodecProcessor
from vqtok.models.rvq_codec.configuration_rvq_codec import RVQCodecConfig
from vqtok.models.rvq_codec.networks import RVQCodecDecoder, RVQCodecEncoder
from vqtok.models.rvq_codec.streaming import CodeStream, SampleStream, fixed_windows
from vqtok.nn.time_layers import ConvBlock
from vqtok.quantizers import build_quantizer

PREPARED_SAMPLES = 2**20  # a longer sound is not held whole
WINDOW_HOPS = 1024  # that tokenize and detokenize work on at a time: 14 seconds at 74 hops


class RVQCodecModel(VQTokenizerModel):
    """Sounds to codes and back; see the module's text for the picture.

    Codes are [B, Q, T] with one position per hop of samples.
    """

    config: RVQCodecConfig
    config_class = RVQCodecConfig
    modality = "audio"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    processor_class = RVQCodecProcessor

    def __init__(self, config: RVQCodecConfig):
        super().__init__(config)
        # overrides in from_pretrained skip the checks
        config.validate_sizes()
        config.validate_quantizer()
        self.encoder = RVQCodecEncoder(config)
        self.quantizer = build_quantizer(dim=config.latent_dim, **config.quantizer_config)
        if config.encoder_beam_size > 1:
            self.quantizer.beam_size = config.encoder_beam_size
        self.decoder = RVQCodecDecoder(config)
        self.processor = RVQCodecProcessor(config.sample_rate_hz, config.channels)
        self.post_init()

    # What the tokenizer is.

    @property
    def sample_rate_hz(self) -> int:
        return self.config.sample_rate_hz

    @property
    def channels(self) -> int:
        """Of the sounds that go in and come out; they are coded together."""
        return self.config.channels

    @property
    def hop(self) -> int:
        return self.config.hop_samples

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate_hz / self.hop

    @property
    def rate(self) -> Rate:
        return Rate(bits=self.frame_rate_hz * sum(self.code_bits), per="second")

    def codebooks_for(self, bitrate_bps: float) -> int:
        """How many codebooks fit into a bit rate.

        Raises:
            ConfigError: not even one does.
        """
        costs = (self.frame_rate_hz * bits for bits in accumulate(self.code_bits))
        number = sum(cost <= bitrate_bps for cost in costs)
        if not number:
            one = self.frame_rate_hz * self.code_bits[0]
            raise ConfigError(
                f"one codebook costs {one:.0f} bits a second; bitrate_bps={bitrate_bps} is less."
            )
        return number

    def hidden_layers(self) -> Sequence[nn.Module]:
        """The convolution blocks of the encoder, then those of the decoder."""
        parts = (self.encoder, self.decoder)
        return [m for part in parts for m in part.modules() if isinstance(m, ConvBlock)]

    def get_input_embeddings(self) -> nn.Module:
        """The map of samples to spectral frames."""
        return self.encoder.paths.second[0].proj

    @property
    def processor(self) -> RVQCodecProcessor:
        """Reads and writes sounds at the codec's rate."""
        return self._processor

    @processor.setter
    def processor(self, processor: RVQCodecProcessor) -> None:
        wanted = (self.config.sample_rate_hz, self.config.channels)
        known = isinstance(processor, RVQCodecProcessor)
        got = (processor.sampling_rate, processor.channels) if known else wanted
        if got != wanted:
            raise LoadError(
                f"the codec takes {wanted[0]} Hz and {wanted[1]} channels, its processor "
                f"{got[0]} Hz and {got[1]}: they do not belong together."
            )
        VQTokenizerModel.processor.fset(self, processor)

    def encoder_calls(self) -> Sequence[Call]:
        """Whole signals go through `forward`, streams through `step`."""
        return [(self.encoder, "forward"), (self.encoder.paths, "step")]

    def float32_layers(self) -> Sequence[nn.Module]:
        """The transform that goes from samples to latents in one step, and both ends of the other
        path."""
        transform, network = self.encoder.paths.first[0], self.encoder.paths.second
        return [transform.proj, network[0].proj, network[-1]]

    # Tensors in, tensors out.

    def encode(
        self,
        input_values: Tensor,
        num_codebooks: int | None = None,
        bitrate_bps: float | None = None,
        chunk_samples: int | None = None,
    ) -> Tensor:
        """Samples [B, C, S] in about [-1, 1] to codes [B, Q, ceil(S / hop)] int64.

        Args:
            input_values: float [B, C, S]; all B sounds end at S.
            num_codebooks: keep only the first codebooks; the same codes, but fewer.
            bitrate_bps: instead of `num_codebooks`: as many as fit.
            chunk_samples: work on pieces of this length; without gradients, memory for the layers
                does not grow with S. The codes are those of the whole; a latent halfway between
                two codes may flip.

        Raises:
            ConfigError: both `num_codebooks` and `bitrate_bps`, or one that cannot be.
        """
        self._check_inputs(input_values)
        number = self._levels(num_codebooks, bitrate_bps)
        if chunk_samples is None:
            return super().encode(input_values, number)
        if chunk_samples < 1:
            raise ConfigError(f"chunk_samples must be at least 1; got {chunk_samples}.")
        chunks = input_values.split(chunk_samples, -1)
        return torch.cat(list(CodeStream(self, number).all_of(chunks)), -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, q, T] int64, q <= Q, to samples [B, C, T hop]."""
        if codes.ndim != 3:
            raise ShapeError(f"codes of sounds are [B, q, T]; got {list(codes.shape)}.")
        return super().decode(codes)

    def stream(
        self, num_codebooks: int | None = None, bitrate_bps: float | None = None
    ) -> CodeStream:
        """Samples piece by piece to codes: `with tok.stream() as s: s.push(samples)`.

        Returns:
            a context whose `push(samples [B, C, t])` gives codes [B, q, n] or None, and `flush()`
            the rest; together they are the codes of the whole.
        """
        return CodeStream(self, self._levels(num_codebooks, bitrate_bps))

    def stream_decoder(self) -> SampleStream:
        """Codes piece by piece to samples: `push(codes [B, q, n])`, then `flush()`."""
        return SampleStream(self)

    def forward(
        self,
        input_values: Tensor,
        mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> VQTokenizerOutput | tuple:
        """Samples [B, C, S] to codes, reconstruction [B, C, S] and losses.

        Args:
            input_values: float [B, C, S].
            mask: [B, T] bool, True where a hop counts in losses and statistics.
            output_hidden_states: also give what every convolution block puts out.
            return_dict: False gives a tuple.
        """
        return super().forward(input_values, mask, output_hidden_states, return_dict)

    # Raw items.

    def tokenize(
        self,
        items: Sequence[Any],
        batch_size: int | None = 1,
        num_codebooks: int | None = None,
        bitrate_bps: float | None = None,
    ) -> list[VQTokens]:
        """Sounds to codes; one by one, memory does not grow with the length of a file.

        Args:
            items: a list of paths, bytes, (waveform, sample_rate_hz), or dicts as
                `datasets.Audio` gives; see `vqtok.models.audio.read_audio`.
            batch_size: as every tokenizer's; above 1 every sound is held in memory whole.
            num_codebooks: keep only the first codebooks.
            bitrate_bps: instead of `num_codebooks`: as many as fit.

        Raises:
            InputError: an item that cannot be read, by name; `.status` says in a word what is
                wrong. Nothing of the list is returned then.
            ConfigError: both `num_codebooks` and `bitrate_bps`, or one that cannot be.
        """
        number = self._levels(num_codebooks, bitrate_bps)
        if batch_size not in (None, 1):
            return super().tokenize(items, batch_size, number)
        check_items(items, "tokenize")
        fingerprint = self.fingerprint.decode
        with self.inference():
            return [self._tokenize_one(item, number, fingerprint) for item in items]

    def _tokenize_one(self, item: Any, number: int | None, fingerprint: str) -> VQTokens:
        """`_read` and `_encode_items` window by window."""
        stream = CodeStream(self, number)
        blocks = [item.tensor] if isinstance(item, PreparedItem) else self.processor.blocks(item)
        windows = fixed_windows(blocks, WINDOW_HOPS * self.hop)
        codes = []
        for part in stream.all_of(window[None].to(self.device) for window in windows):
            codes.append(part)
            self.on_step()
        meta = {"samples": stream.samples}
        return VQTokens(torch.cat(codes, -1)[0].cpu(), meta, fingerprint)

    def prepare(self, item: Any) -> Any:
        """As for every tokenizer; a long sound stays as it is, and is read while it is encoded."""
        blocks, read = self.processor.blocks(item), []
        while (block := next(blocks, None)) is not None:
            read.append(block)
            if sum(block.shape[-1] for block in read) > PREPARED_SAMPLES:
                blocks.close()
                return item
        sound = torch.cat(read, -1)
        return PreparedItem(sound, {"samples": sound.shape[-1]})

    def _read(self, item: Any) -> tuple[Tensor, dict[str, Any]]:
        return self.processor.read(item)

    def _encode_items(
        self, inputs: Tensor, metas: Sequence[dict[str, Any]], num_codebooks: int | None
    ) -> Tensor:
        # windows at fixed places: the codes of a sound do not depend on how it came
        return self.encode(inputs, num_codebooks, chunk_samples=WINDOW_HOPS * self.hop)

    def _decode_item(self, item: VQTokens) -> Tensor:
        codes = item.codes
        if codes.ndim != 2 or 0 in codes.shape:
            raise FormatError(f"codes of a sound are [q, T], not empty; got {list(codes.shape)}.")
        self.quantizer.check_codes(codes.movedim(0, -1))
        # filled piece by piece: hours of sound are not held twice
        samples, done = torch.empty(self.channels, codes.shape[1] * self.hop), 0
        parts = codes[None].to(self.device).split(WINDOW_HOPS, -1)
        for part in SampleStream(self).all_of(parts):
            samples[:, done : done + part.shape[-1]] = part[0]
            done += part.shape[-1]
        return samples

    def _write(self, output: Tensor, meta: dict[str, Any]) -> tuple[np.ndarray, int]:
        samples, whole = meta.get("samples"), output.shape[-1]
        if not meta:  # codes that a prior made: the sound ends with its last frame
            return self.processor.write(output)
        if not isinstance(samples, int) or not whole - self.hop < samples <= whole:
            raise FormatError(
                f"the codes are of a sound of {whole} samples, less at most {self.hop - 1}; meta "
                f"says samples is {samples!r}."
            )
        return self.processor.write(output[:, :samples])

    def canary_inputs(self) -> Tensor:
        """Two sounds made of integers, [2, C, 24 hops]."""
        return integer_sounds(24 * self.hop, self.channels)

    # Inside.

    def _levels(self, num_codebooks: int | None, bitrate_bps: float | None) -> int | None:
        if bitrate_bps is None:
            return num_codebooks
        if num_codebooks is not None:
            raise ConfigError(
                "num_codebooks and bitrate_bps say the same thing in two ways: give one of them."
            )
        return self.codebooks_for(bitrate_bps)

    def _check_inputs(self, inputs: Tensor) -> None:
        super()._check_inputs(inputs)
        if inputs.shape[1] != self.channels:
            raise ShapeError(
                f"this codec takes samples of {self.channels} channels, [B, {self.channels}, S]; "
                f"got {list(inputs.shape)}."
            )
