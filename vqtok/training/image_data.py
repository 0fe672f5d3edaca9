"""Images for training and evaluation: read once, cropped on the fly, the same crops every time.

Sample number `i` of a run is a pure function of (seed, i): which image, which crop, flipped or
not. An interrupted run that continues at sample `i` therefore sees what it would have seen.

Shapes: images are uint8 [3, H, W]; batches float32 [B, 3, crop, crop] in [-1, 1].
"""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from vqtok.errors import ConfigError, InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_CROP_STREAM, _ORDER_STREAM = 0, 1  # keeps the two uses of one seed apart


class ImageStore(Sequence):
    """The images of a folder or of parquet files, decoded once while memory lasts.

    Args:
        source: a folder (images and parquet files, searched in the order of their names), a
            parquet file, or an image file.
        column: the parquet column, a struct with `bytes` and `path`, or plain bytes.
        limit: keep the first images only.
        memory_mb: pixels beyond this much stay encoded and are decoded at every access.

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
    ):
        self._items: list[np.ndarray | tuple[str, bytes | Path]] = []
        budget = memory_mb * 2**20
        for name, data in _find_images(Path(source), column):
            if limit is not None and len(self._items) >= limit:
                break
            if budget <= 0:
                self._items.append((name, data))
                continue
            pixels = _decode(name, data)
            budget -= pixels.nbytes
            self._items.append(pixels)
        if not self._items:
            raise ConfigError(
                f"training wants images in {source}, but found none: give a folder of "
                f"{', '.join(sorted(IMAGE_SUFFIXES))} files or parquet with column {column!r}."
            )
        encoded = sum(isinstance(item, tuple) for item in self._items)
        logger.info("%d images from %s, %d of them kept encoded", len(self), source, encoded)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Tensor:
        """uint8 [3, H, W], a channels-last view."""
        item = self._items[index]
        pixels = _decode(*item) if isinstance(item, tuple) else item
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
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        """uint8 [3, crop, crop]."""
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of a run of {self.length}")
        image = self.store[self._image_index(index)]
        rng = np.random.default_rng((self.seed, _CROP_STREAM, index))
        side = self._side(min(image.shape[1:]), rng.random())
        top = int(rng.integers(image.shape[1] - side + 1))
        left = int(rng.integers(image.shape[2] - side + 1))
        mirrored = self.flip and rng.random() < 0.5

        patch = image[:, top : top + side, left : left + side]
        if side != self.crop:
            patch = resize_square(patch, self.crop)
        return patch.flip(2) if mirrored else patch

    def _image_index(self, index: int) -> int:
        turn, place = divmod(index, len(self.store))
        if self._order[0] != turn:
            rng = np.random.default_rng((self.seed, _ORDER_STREAM, turn))
            self._order = (turn, rng.permutation(len(self.store)))
        return int(self._order[1][place])

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
    """uint8 [N, 3, size, size]: each image's centre square, resized by Pillow's bicubic filter."""
    squares = torch.empty(len(store), 3, size, size, dtype=torch.uint8)
    for index in range(len(store)):
        image = Image.fromarray(store[index].permute(1, 2, 0).contiguous().numpy())
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side != size:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        squares[index] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return squares


def to_pixel_values(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def collate_crops(crops: list[Tensor]) -> dict[str, Tensor]:
    """What the model's forward takes: `pixel_values` float32 [B, 3, H, W]."""
    return {"pixel_values": to_pixel_values(torch.stack(crops).contiguous())}


def _find_images(source: Path, column: str):
    """(name, bytes or path) of each image, in the order of the names."""
    if not source.exists():
        raise ConfigError(f"the image source {source} does not exist.")
    files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    for file in files:
        if file.suffix.lower() in IMAGE_SUFFIXES:
            yield str(file), file
        elif file.suffix.lower() == ".parquet":
            yield from _parquet_images(file, column)


def _parquet_images(file: Path, column: str):
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    if column not in parquet.schema_arrow.names:
        raise ConfigError(
            f"{file} has the columns {parquet.schema_arrow.names}, but not {column!r}: "
            "name the image column with data.column."
        )
    row = 0
    for batch in parquet.iter_batches(batch_size=64, columns=[column]):
        for value in batch.column(0).to_pylist():
            name = f"{file}, row {row}"
            row += 1
            if isinstance(value, dict):
                data = value.get("bytes")
                if data is None and value.get("path"):
                    data = file.parent / value["path"]
            else:
                data = value
            if not isinstance(data, bytes | Path):
                raise InputError(f"{name} holds neither image bytes nor a path.", "empty")
            yield name, data


def _decode(name: str, data: bytes | Path) -> np.ndarray:
    """RGB uint8 [H, W, 3], upright."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is not a readable image: {error}. Remove or mend it.") from error
