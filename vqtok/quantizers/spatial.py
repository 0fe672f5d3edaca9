"""Spatial codebooks: every region of the image has its own slice of the codebook.

The code grid is cut into G x G regions in relative coordinates, so the same part of the picture
uses the same slice at any size. code = region * K_slice + place in the slice: the region is in
the number, decoding is a plain lookup, and there are no extra tokens.

No published definition was found; nearest are the token-specific codebooks of ReVQ, arXiv
2507.10547. A slice sees 1 / G^2 of the data, and translation equivariance is lost: expect a gain on
aligned pictures (faces, scans, screens) and perhaps a loss on others.
Shapes: latents [B, h, w, D], codes [B, h, w, 1].
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vqtok.errors import ConfigError, ShapeError
from vqtok.quantizers.base import QuantizerOutput, whole_number
from vqtok.quantizers.codebook import Codebook
from vqtok.quantizers.learned import Begin, LearnedQuantizer, valid_rows
from vqtok.quantizers.precision import float32_math
from vqtok.quantizers.sync import sum_over_ranks

# which region, and its rows and columns in the code grid
Region = tuple[int, slice, slice]


class SpatialQuantizer(LearnedQuantizer):
    """K codes in G^2 slices, one per region.

    Args:
        dim: D, width of the latents.
        codebook_size: K of all slices together, a multiple of G^2.
        num_regions: G, regions along each axis.
        learning: "ema" or "gradient", see `Codebook`.
        decay: of the EMA statistics.
        unit_norm: latents and codes are compared on the unit sphere.
        commitment_weight: weight of the commitment loss.
        gradient: "straight_through" or "rotation".
        revive_below: a code is dead below this share of uniform use of its slice.
        revive_by: "random" or "split".
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        num_regions: int = 4,
        learning: str = "ema",
        decay: float = 0.99,
        unit_norm: bool = False,
        commitment_weight: float = 0.25,
        gradient: str = "straight_through",
        revive_below: float = 0.1,
        revive_by: str = "random",
    ):
        super().__init__(dim, (codebook_size,), commitment_weight, gradient)
        num_slices = whole_number("num_regions", num_regions, 1) ** 2
        if codebook_size % num_slices or codebook_size < 2 * num_slices:
            raise ConfigError(
                "spatial wants a codebook_size that is a multiple of G * G, G = num_regions, "
                f"with 2 codes or more a region; got G={num_regions}, "
                f"codebook_size={codebook_size}."
            )
        self.num_regions = num_regions
        self.slice_size = codebook_size // num_slices
        self.codebooks = nn.ModuleList(
            Codebook(self.slice_size, dim, learning, decay, unit_norm, revive_below, revive_by)
            for _ in range(num_slices)
        )

    @property
    def code_bits(self) -> tuple[float, ...]:
        """The place says the region, so a code costs no more than its number in the slice."""
        return (math.log2(self.slice_size),)

    def encode(self, latents: Tensor, num_codebooks: int | None = None) -> Tensor:
        """[B, h, w, D] float to [B, h, w, 1] int64; each position's code is of its region."""
        self.check_latents(latents)
        self.active_codebooks(num_codebooks)
        with float32_math(latents):
            return self._assign(self.codebooks[0].prepare(latents))[..., None]

    def decode(self, codes: Tensor) -> Tensor:
        """[..., 1] int64 to [..., D] float32."""
        self.check_codes(codes)
        with float32_math(codes):
            return self._lookup(codes[..., 0])

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """[B, h, w, D] to quantized latents with gradient, codes [B, h, w, 1] and losses."""
        self.check_latents(latents)
        self.check_mask(latents, mask)
        self._start_if_needed(latents, mask)
        with float32_math(latents):
            vectors = self.codebooks[0].prepare(latents)
            codes = self._assign(vectors)
            chosen = self._lookup(codes)
            loss, losses = self._losses(vectors, chosen, mask)
            quantized = self._pass_gradient(vectors, chosen)
        self._gather(vectors, codes, mask)
        self._upkeep_if_due()
        return QuantizerOutput(quantized.to(latents.dtype), codes[..., None], loss, losses)

    def check_latents(self, latents: Tensor) -> None:
        super().check_latents(latents)
        if latents.ndim != 4:
            raise ShapeError(
                f"spatial wants latents [B, h, w, {self.dim}], because a code depends on its place "
                f"in the image; got {list(latents.shape)}."
            )

    def region_of(self, height: int, width: int) -> Tensor:
        """The region of every position of a code grid: int64 [h, w] in [0, G^2)."""
        regions = torch.empty(height, width, dtype=torch.int64)
        for region, rows, columns in self._regions(height, width):
            regions[rows, columns] = region
        return regions

    def _regions(self, height: int, width: int) -> Iterator[Region]:
        """Regions that own a position; on a grid smaller than G x G some own none."""
        for row in range(self.num_regions):
            rows = _owned(row, self.num_regions, height)
            for column in range(self.num_regions):
                columns = _owned(column, self.num_regions, width)
                if rows.start < rows.stop and columns.start < columns.stop:
                    yield row * self.num_regions + column, rows, columns

    def _assign(self, vectors: Tensor) -> Tensor:
        """Prepared vectors [B, h, w, D] to codes [B, h, w]; one search per region."""
        shape = vectors.shape[:-1]
        codes = torch.empty(shape, dtype=torch.int64, device=vectors.device)
        for region, rows, columns in self._regions(*shape[1:]):
            places = self.codebooks[region].nearest(vectors[:, rows, columns])
            codes[:, rows, columns] = places + region * self.slice_size
        return codes

    def _lookup(self, codes: Tensor) -> Tensor:
        table = torch.cat([codebook.live_codes() for codebook in self.codebooks])
        return self.codebooks[0].compared(table[codes])

    def _gather(self, vectors: Tensor, codes: Tensor, mask: Tensor | None) -> None:
        for region, rows, columns in self._regions(*codes.shape[1:]):
            part = None if mask is None else mask[:, rows, columns]
            places = codes[:, rows, columns] - region * self.slice_size
            places = places.flatten() if part is None else places[part]
            self.codebooks[region].gather(valid_rows(vectors[:, rows, columns], part), places)

    def _refit(self, latents: Tensor, codes: Tensor) -> None:
        errors = self.codebooks[0].prepare(latents) - self._lookup(codes[..., 0])
        for region, rows, columns in self._regions(*codes.shape[1:3]):
            places = codes[:, rows, columns, 0].flatten() - region * self.slice_size
            self.codebooks[region].move(errors[:, rows, columns].flatten(0, -2), places)

    def _start(self, latents: Tensor, mask: Tensor | None, begin: Begin) -> None:
        vectors = self.codebooks[0].prepare(latents)
        everything = valid_rows(vectors, mask)
        own = [everything[:0]] * len(self.codebooks)
        for region, rows, columns in self._regions(*latents.shape[1:3]):
            part = None if mask is None else mask[:, rows, columns]
            own[region] = valid_rows(vectors[:, rows, columns], part)
        found = torch.tensor([rows.shape[0] for rows in own], device=latents.device)
        sum_over_ranks([found])
        for codebook, rows, number in zip(self.codebooks, own, found.tolist(), strict=True):
            # a region that no image reaches starts like the picture as a whole
            begin(codebook, rows if number else everything)


def _owned(region: int, num_regions: int, size: int) -> slice:
    """The positions i of an axis with floor(i * G / size) == region."""
    return slice(-(-region * size // num_regions), -(-(region + 1) * size // num_regions))
