"""What the adapters of image tokenizers share: raw pictures in and out, rates, canaries."""

import os
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqtok.errors import InputError, ShapeError
from vqtok.models.adapters.base import AdapterModel
from vqtok.models.images import READING, read_image
from vqtok.models.outputs import Rate

BOOKKEEPING = frozenset({"image_processor_type", "processor_class"})


class ImagePreprocessor:
    """Reads pictures by a family's own image processor, and writes them.

    The family decides on the size, so a picture comes back at the size at which it was encoded;
    what was cropped stays cropped.

    Args:
        native: the image processor of the family.
    """

    def __init__(self, native: Any):
        self.native = native

    def code_options(self) -> dict[str, Any]:
        """What the codes of a picture depend on, for the fingerprint."""
        options = {k: v for k, v in self.native.to_dict().items() if k not in BOOKKEEPING}
        return {"class": type(self.native).__name__, "native": options, "reading": READING}

    def read(self, item: Any) -> tuple[Tensor, dict[str, Any]]:
        """A raw picture to what the native encode takes, [3, h, w], and its height and width.

        Raises:
            InputError: no picture, or one that the image processor cannot work with.
        """
        pixels = read_image(item)
        try:
            tensor = self.prepare(Image.fromarray(pixels))
        except (RuntimeError, ValueError, ZeroDivisionError) as error:
            raise InputError(f"a picture of {pixels.shape} cannot be prepared: {error}") from error
        return tensor, {"height": pixels.shape[0], "width": pixels.shape[1]}

    def prepare(self, image: Image.Image) -> Tensor:
        """An RGB picture to [3, h, w] by the native processor."""
        return self.native(images=image, return_tensors="pt")["pixel_values"][0]

    def write(self, output: Tensor, meta: dict[str, Any] | None = None) -> Image.Image:
        """A decoded [3, h, w] to a picture: the inverse of normalizing and rescaling."""
        values = self.unscale(output.detach().float().cpu())
        pixels = values.round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))

    def unscale(self, values: Tensor) -> Tensor:
        """Normalized [3, h, w] to values of about 0 to 255."""
        native = self.native
        if native.do_normalize:
            mean, std = (
                torch.tensor(v).reshape(-1, 1, 1) for v in (native.image_mean, native.image_std)
            )
            values = values * std + mean
        return values / native.rescale_factor if native.do_rescale else values

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        self.native.save_pretrained(folder)


class ImageAdapter(AdapterModel):
    """Base of the image tokenizers: inputs [B, 3, H, W], one codebook, codes [B, 1, h, w]."""

    modality = "image"
    processor_class = ImagePreprocessor
    quantizer_parts: ClassVar[tuple[str, ...]] = ("quantize",)
    encoder_parts: ClassVar[tuple[str, ...]] = ("encoder", "quant_conv")
    decoder_parts: ClassVar[tuple[str, ...]] = ("post_quant_conv", "decoder")

    @property
    def decoder(self) -> torch.nn.Module | None:
        return self.native.get_submodule("decoder") if self.can_decode else None

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.quantizer.embedding.num_embeddings,)

    @property
    def hop(self) -> int:
        """Every level of the pyramid but the first halves the picture."""
        return 2 ** (len(self.config.channel_multiplier) - 1)

    @property
    def rate(self) -> Rate:
        return Rate(bits=sum(self.code_bits) / self.hop**2, per="pixel")

    def canary_inputs(self) -> Tensor:
        """Integer ramps, [2, 3, side, side]: no library draws them differently."""
        side = self.canary_side()
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        planes = torch.stack([3 * x + y, x * y])[:, None] * torch.tensor([1, 3, 5])[:, None, None]
        return planes.float() % 256 / 127.5 - 1

    def canary_side(self) -> int:
        return 4 * self.hop

    def _check_inputs(self, inputs: Tensor) -> None:
        super()._check_inputs(inputs)
        if inputs.shape[1] != 3 or min(inputs.shape[2:]) < self.hop:
            raise ShapeError(
                f"{type(self).__name__} wants [B, 3, H, W] of at least {self.hop} x {self.hop} "
                f"pixels; got {list(inputs.shape)}."
            )

    def _flat_to_grid(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Codes in a row to [B, 1, h, w]; every halving rounds down."""
        height, width = (size // self.hop for size in inputs.shape[2:])
        return flat.reshape(len(inputs), 1, height, width)
