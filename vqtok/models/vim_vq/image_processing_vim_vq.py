"""Pictures to pixel tensors and back, at their own size.

    path, bytes, PIL image, array ──read──▶ float32 [3, H, W] in [-1, 1] ──write──▶ PIL image

No resizing, no cropping: the codes are those of the picture as it is. `vqtok.models.images` says
what every kind of picture becomes.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from vqtok.errors import InputError, ShapeError
from vqtok.models.images import PIXEL_LIMIT, READING, check_options, read_image

WHITE = (255, 255, 255)


class VimVQImageProcessor(BaseImageProcessor):
    """Reads and writes the images of VIM-VQ tokenizers.

    Args:
        max_pixels: a picture with more pixels is refused by its header.
        background: RGB, 0 to 255, that shows through transparent pixels.
        kwargs: keys that transformers adds to preprocessor_config.json.
    """

    model_input_names = ("pixel_values",)

    def __init__(
        self, max_pixels: int = PIXEL_LIMIT, background: tuple[int, int, int] = WHITE, **kwargs
    ):
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        check_options(max_pixels, background)
        self.max_pixels, self.background = max_pixels, list(background)

    def code_options(self) -> dict[str, Any]:
        """What the codes of a picture depend on, for the fingerprint."""
        return {"background": self.background, "reading": READING}

    def read(self, item: Any) -> tuple[Tensor, dict[str, int]]:
        """One picture to float32 [3, H, W] in [-1, 1], and its height and width.

        Raises:
            InputError: no picture, or a broken one; see `vqtok.models.images.read_image`.
        """
        pixels = read_image(item, self.max_pixels, tuple(self.background))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 127.5 - 1
        return tensor, {"height": pixels.shape[0], "width": pixels.shape[1]}

    def write(self, output: Tensor) -> Image.Image:
        """Float [3, H, W], about [-1, 1], to an RGB image; what lies outside is clamped."""
        if output.ndim != 3 or output.shape[0] != 3:
            raise ShapeError(f"an image is written from [3, H, W]; got {list(output.shape)}.")
        pixels = ((output.detach().float() + 1) * 127.5).round().clamp(0, 255)
        return Image.fromarray(pixels.to("cpu", torch.uint8).permute(1, 2, 0).contiguous().numpy())

    def __call__(self, images: Any, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """Pictures of one size to `pixel_values` [B, 3, H, W], as transformers' pipelines call it.

        Args:
            images: one picture or a list of them.
            return_tensors: "pt" or "np"; None leaves a list of tensors, which may differ in size.
            kwargs: nothing; an option of another image processor is refused.
        """
        return self.preprocess(images, return_tensors, **kwargs)

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """The same as a call."""
        if kwargs:
            raise InputError(
                f"{type(self).__name__} knows no option {sorted(kwargs)}: it neither resizes nor "
                "crops. max_pixels and background are set when it is made."
            )
        if return_tensors not in ("pt", "np", None):
            raise InputError(f'return_tensors must be "pt", "np" or None; got {return_tensors!r}.')
        images = images if isinstance(images, (list, tuple)) else [images]
        tensors = [self.read(image)[0] for image in images]
        if return_tensors is None:
            return BatchFeature({"pixel_values": tensors})
        sizes = {tuple(tensor.shape[1:]) for tensor in tensors}
        if len(sizes) != 1:
            raise InputError(
                f"a batch wants pictures of one size; got {sorted(sizes)[:8]}. tokenize() takes "
                "them as they are; return_tensors=None gives a list."
            )
        batch = torch.stack(tensors)
        return BatchFeature(
            {"pixel_values": batch if return_tensors == "pt" else np.asarray(batch)}
        )
