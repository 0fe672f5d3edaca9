"""Embeddings to codes and back: semantic IDs of items, sentences or images.

    vectors [B, ..., D]                            vectors [B, ..., D]
       │ MLP, or as they are                          ▲ MLP, or as they are
    latents ──────── quantizer ──────────────────▶ latents
                        │ ▲
                     codes [B, Q, ...] ── unique_ids ──▶ [N, Q + 1]

Without hidden layers it is the quantizer alone: `fit(vectors)` learns it in minutes and without a
gradient. With them it is the RQ-VAE of semantic IDs (Rajput et al. 2023, TIGER, arXiv 2305.05065),
trained through `forward` as every tokenizer; `fit` then starts the codebooks on the latents.

Residual codes are coarse to fine, so IDs that begin alike belong to vectors that are alike; a beam
search finds them (`vqtok.ops.beam`). Product codes are quicker to find, with a larger error at the
same bits. Not good at: exact retrieval (a code keeps the neighbourhood, see `report`), and
vectors of another embedding model than those it was fitted on.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqtok.errors import ShapeError
from vqtok.models.base import VQTokenizerModel
from vqtok.models.embedding_vq.configuration_embedding_vq import EmbeddingVQConfig
from vqtok.models.embedding_vq.report import EmbeddingReport, report_on
from vqtok.models.embedding_vq.semantic_ids import with_digits
from vqtok.models.outputs import Rate, VQTokenizerOutput, VQTokens
from vqtok.models.vectors import read_vector, read_vectors
from vqtok.quantizers import build_quantizer

BLOCK_ROWS = 16_384  # vectors that go through the networks together


def mlp(widths: list[int]) -> nn.Module:
    """Linear maps with ReLU between them; nothing at all if it would keep the width in one map."""
    if len(widths) == 2 and widths[0] == widths[1]:
        return nn.Identity()
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for before, after in pairwise(widths[1:]):
        layers += [nn.ReLU(), nn.Linear(before, after)]
    return nn.Sequential(*layers)


class EmbeddingVQModel(VQTokenizerModel):
    """Vectors to codes and back; see the module's text for the picture.

    A raw item is one vector of D numbers; its codes are [Q, 1], a grid of one place.
    """

    config: EmbeddingVQConfig
    config_class = EmbeddingVQConfig
    modality = "embedding"
    main_input_name = "vectors"
    input_modalities = ("embedding",)

    def __init__(self, config: EmbeddingVQConfig):
        super().__init__(config)
        # overrides in from_pretrained skip the checks
        config.validate_widths()
        config.validate_quantizer()
        width, latent = config.embedding_dim, config.quantizer_dim
        self.encoder = mlp([width, *config.encoder_widths, latent])
        self.quantizer = build_quantizer(dim=latent, **config.quantizer_config)
        self.decoder = mlp([latent, *config.decoder_widths, width])
        if config.beam_size > 1:
            self.quantizer.beam_size = config.beam_size
        self.post_init()

    @property
    def rate(self) -> Rate:
        return Rate(bits=sum(self.code_bits), per="vector")

    @property
    def hop(self) -> int:
        return 1

    def hidden_layers(self) -> list[nn.Module]:
        """The linear maps of the encoder, then those of the decoder."""
        parts = (self.encoder.modules(), self.decoder.modules())
        return [module for part in parts for module in part if isinstance(module, nn.Linear)]

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, q, ...] int64, q <= Q, to vectors [B, ..., D].

        Raises:
            CodeRangeError: a code that the codebook does not have (looked at on the CPU only).
        """
        if codes.ndim < 2:
            raise ShapeError(f"decode wants codes [B, q, ...]; got {list(codes.shape)}.")
        return self.decoder(self.quantizer.decode(codes.movedim(1, -1)).to(self.dtype))

    def forward(
        self,
        vectors: Tensor,
        mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> VQTokenizerOutput | tuple:
        """Vectors [B, ..., D] to codes, reconstruction and losses.

        Args:
            vectors: float [B, ..., D].
            mask: [B, ...] bool, True where a vector counts in losses and statistics.
            output_hidden_states: also give what every linear map puts out.
            return_dict: False gives a tuple.
        """
        self._check_inputs(vectors)
        places = vectors.shape[:-1]
        if mask is not None and (mask.shape != places or mask.dtype != torch.bool):
            raise ShapeError(
                f"the mask of vectors {list(vectors.shape)} must be bool {list(places)}; "
                f"got {list(mask.shape)} {mask.dtype}."
            )
        rows_mask = None if mask is None else mask.flatten()
        output = super().forward(vectors.flatten(0, -2), rows_mask, output_hidden_states, True)
        output.codes = output.codes.unflatten(0, places).movedim(-1, 1)
        output.reconstruction = output.reconstruction.unflatten(0, places)
        output.latents = output.latents.unflatten(0, places)
        if output.hidden_states is not None:
            output.hidden_states = tuple(h.unflatten(0, places) for h in output.hidden_states)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    # Many vectors at once.

    def fit(self, vectors: Any, rounds: int = 4, seed: int = 0) -> "EmbeddingVQModel":
        """Learns the codebooks from vectors, without a gradient; networks stay as they are.

        Args:
            vectors: [N, D] tensor or array, or a list of vectors; they are held in memory.
            rounds: of refinement after the start by k-means, see `Quantizer.fit`.
            seed: of k-means: the same vectors and seed give the same codebooks. The caller's
                random state is left alone.

        Raises:
            InputError: a vector that cannot be read.
            ConfigError: a codebook is frozen.
        """
        latents = self._latents(read_vectors(vectors, self.config.embedding_dim))
        with torch.random.fork_rng(devices=[]), self.inference():
            torch.manual_seed(seed)
            self.quantizer.fit(latents, rounds)
        return self

    def unique_ids(self, vectors: Any, taken: Tensor | None = None) -> Tensor:
        """Semantic IDs, one for each item and no two alike: int64 [N, Q + 1].

        The first Q numbers are the item's codes. The last counts the items with the same codes,
        in the order in which they come, so that IDs do not change when items are added at the end.

        Args:
            vectors: [N, D] tensor or array, or a list of vectors.
            taken: IDs that `unique_ids` gave to other items before, [T, Q + 1]; new ones differ
                from all of them.

        Raises:
            InputError: a vector that cannot be read, or IDs that were taken twice.
            ShapeError: `taken` has another shape or dtype.
            CodeRangeError: `taken` was not made by a tokenizer with these codebooks.
        """
        if isinstance(taken, Tensor) and taken.ndim == 2 and taken.shape[1] > 1:
            self.quantizer.check_codes(taken[:, :-1].cpu())
        return with_digits(self._codes(read_vectors(vectors, self.config.embedding_dim)), taken)

    def report(self, vectors: Any, k: int = 10) -> EmbeddingReport:
        """Error, recall of the `k` nearest neighbours, collisions and codebook health.

        Args:
            vectors: [N, D] tensor or array, or a list of vectors; N > k.
            k: neighbours.
        """
        vectors = read_vectors(vectors, self.config.embedding_dim)
        codes = self._codes(vectors)
        with self.inference():
            back = [self.decode(part.to(self.device)).cpu() for part in codes.split(BLOCK_ROWS)]
        reconstruction = torch.cat(back).float()
        return report_on(vectors, codes, reconstruction, self.codebook_sizes, self.rate.bits, k)

    def _latents(self, vectors: Tensor) -> Tensor:
        with self.inference():
            parts = vectors.split(BLOCK_ROWS)
            return torch.cat([self.encoder(p.to(self.device, self.dtype)).float() for p in parts])

    def _codes(self, vectors: Tensor) -> Tensor:
        with self.inference():
            parts = vectors.split(BLOCK_ROWS)
            return torch.cat([self.encode(part.to(self.device)).cpu() for part in parts])

    # Raw items.

    def _check_inputs(self, inputs: Tensor) -> None:
        width = self.config.embedding_dim
        if inputs.ndim < 2 or inputs.shape[-1] != width or not inputs.is_floating_point():
            raise ShapeError(
                f"{type(self).__name__} wants float vectors [B, ..., {width}]; got "
                f"{inputs.dtype} {list(inputs.shape)}. tokenize() takes raw items."
            )

    def _read(self, item: Any) -> tuple[Tensor, dict[str, Any]]:
        return read_vector(item, self.config.embedding_dim)[None], {}

    def _decode_item(self, item: VQTokens) -> Tensor:
        if item.codes.ndim != 2 or item.codes.shape[1] != 1:
            raise ShapeError(
                f"the codes of one vector are [Q, 1]; got {list(item.codes.shape)}. Pass every "
                "vector as an item of its own, or call decode with codes [B, Q, ...]."
            )
        return super()._decode_item(item)

    def _write(self, output: Tensor, meta: dict[str, Any]) -> np.ndarray:
        """Float32 [D]."""
        return output[0].numpy()

    def canary_inputs(self) -> Tensor:
        """Integer sequences, [16, D], in [-1, 1]: no library draws them differently."""
        row = torch.arange(16)[:, None]
        column = torch.arange(self.config.embedding_dim)
        return ((row + 3) * (column + 5) ** 2 % 251 + row * column) % 256 / 127.5 - 1
