"""Images for training and evaluation: read once, cropped on the fly, the same crops every time.

Pictures are read as `vqtok tokenize` reads them: the same files of a folder, the same pixels.

Sample number `i` of a run is a pure function of (seed, i): which image, which crop, flipped or
not. An interrupted run that continues at sample `i` therefore sees what it would have seen.

Shapes: images are uint8 [3, H, W]; batches float32 [B, 3, crop, crop] in [-1, 1].
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vqtok.errors import ConfigError
from vqtok.metrics.image import centre_square
from vqtok.models.images import read_image
from vqtok.training.files import Encoded, find_items
from vqtok.training.turns import Turns

logger = logging.getLogger(__name__)

# those of vqtok.data.modalities, which this floor cannot see; a test holds the two together
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "tga", "jp2", "avif", "heic", "heif"),
    )
)
_CROP_STREAM = 0  # keeps this use of the seed apart from that of `Turns`


class ImageStore(Sequence):
    """The images of a folder or of parquet files, decoded once while memory lasts.

    Args:
        source: a folder (images and parquet files, searched in the order of their names, hidden
            ones left out), a parquet file, or an image file.
        column: the parquet column, a struct with `bytes` and `path`, or plain bytes.
        limit: keep the first images only.
        memory_mb: pixels beyond this much stay encoded and are decoded at every access.
        read: a path, or a dict with "bytes" and "path", to uint8 [H, W, 3]; see
            `vqtok.models.images.read_image`.

    Raises:
        ConfigError: the source does not exist or holds no image.
        InputError: an image cannot be read; the message names it.
    """

    def __init__(
        self,
        source: str | Path,
        column: str = "image",
        limit: int | None = None,
        memory_mb: int = 4096,
        read: Callable[[Any], np.ndarray] = read_image,
    ):
        self._read = read
        self._items: list[np.ndarray | Encoded] = []
        budget = memory_mb * 2**20
        for item in find_items(Path(source), IMAGE_SUFFIXES, column):
            if limit is not None and len(self._items) >= limit:
                break
            if budget <= 0:
                self._items.append(item)
                continue
            pixels = read(item)
            budget -= pixels.nbytes
            self._items.append(pixels)
        if not self._items:
            raise ConfigError(
                f"training wants images in {source}, but found none: give a folder of "
                f"{', '.join(sorted(IMAGE_SUFFIXES))} files or parquet with column {column!r}."
            )
        encoded = sum(not isinstance(item, np.ndarray) for item in self._items)
        logger.info("%d images from %s, %d of them kept encoded", len(self), source, encoded)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Tensor:
        """uint8 [3, H, W], a channels-last view."""
        item = self._items[index]
        pixels = item if isinstance(item, np.ndarray) else self._read(item)
        return torch.from_numpy(pixels).permute(2, 0, 1)


class RandomCrops(Dataset):
    """A run's whole stream of training crops, as one long list: item i depends on (seed, i) only.

    A crop is a square with a side between `scale[0]` x crop and `scale[1]` x crop, as far as the
    image's short side allows, at a random place, resized to crop x crop with an antialiased
    bicubic filter. An image smaller than the crop is enlarged. Every image comes once before any
    comes again.

    Args:
        store: images uint8 [3, H, W].
        length: samples in the run: steps x batch x accumulation x processes.
        crop: side of the result in pixels.
        scale: smallest and largest side in units of `crop`; None is the image's short side.
        flip: mirror every second crop, at random.
    """

    def __init__(
        self,
        store: Sequence[Tensor],
        length: int,
        crop: int,
        seed: int,
        scale: tuple[float, float | None] = (1.0, None),
        flip: bool = True,
    ):
        low, high = scale
        if length < 1 or crop < 1 or low <= 0 or (high is not None and high < low):
            raise ConfigError(
                "crops want length >= 1, crop >= 1 and 0 < scale[0] <= scale[1]; "
                f"got length={length}, crop={crop}, scale={tuple(scale)}."
            )
        self.store, self.length, self.crop, self.seed = store, length, crop, seed
        self.scale, self.flip = (low, high), flip
        self._turns = Turns(len(store), seed)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        """uint8 [3, crop, crop]."""
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of a run of {self.length}")
        image = self.store[self._turns[index]]
        rng = np.random.default_rng((self.seed, _CROP_STREAM, index))
        side = self._side(min(image.shape[1:]), rng.random())
        top = int(rng.integers(image.shape[1] - side + 1))
        left = int(rng.integers(image.shape[2] - side + 1))
        mirrored = self.flip and rng.random() < 0.5

        patch = image[:, top : top + side, left : left + side]
        if side != self.crop:
            patch = resize_square(patch, self.crop)
        return patch.flip(2) if mirrored else patch

    def _side(self, short: int, chance: float) -> int:
        low = min(short, round(self.scale[0] * self.crop))
        high = short if self.scale[1] is None else min(short, round(self.scale[1] * self.crop))
        return low + int(chance * (max(high, low) - low + 1))


def resize_square(image: Tensor, side: int) -> Tensor:
    """uint8 [3, h, w] to uint8 [3, side, side], bicubic with antialias."""
    resized = torch.nn.functional.interpolate(
        image[None], size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0]


def centre_squares(store: Sequence[Tensor], size: int) -> Tensor:
    """uint8 [N, 3, size, size]: the `centre_square` of each image."""
    squares = torch.empty(len(store), 3, size, size, dtype=torch.uint8)
    for index in range(len(store)):
        image = Image.fromarray(store[index].permute(1, 2, 0).contiguous().numpy())
        square = np.array(centre_square(image, size))
        squares[index] = torch.from_numpy(square).permute(2, 0, 1)
    return squares


def to_pixel_values(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def collate_crops(crops: list[Tensor]) -> dict[str, Tensor]:
    """What the model's forward takes: `pixel_values` float32 [B, 3, H, W]."""
    return {"pixel_values": to_pixel_values(torch.stack(crops).contiguous())}
