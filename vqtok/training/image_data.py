"""Images for training and evaluation: read once, cropped on the fly, the same crops every time.

Pictures are read as `vqtok tokenize` reads them: the same files of a folder, the same pixels.

Sample number `i` of a run is a pure function of (seed, i): which image, which crop, flipped or
not. An interrupted run that continues at sample `i` therefore sees what it would have seen.

Shapes: images are uint8 [3, H, W]; batches float32 [B, 3, crop, crop] in [-1, 1].
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vqtok.errors import ConfigError, InputError
from vqtok.metrics.image import centre_square
from vqtok.models.images import read_image

logger = logging.getLogger(__name__)

# those of vqtok.data.sources, which this floor cannot see; a test holds the two together
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "tga", "jp2", "avif", "heic", "heif"),
    )
)
_CROP_STREAM, _ORDER_STREAM = 0, 1  # keeps the two uses of one seed apart

Encoded = Path | dict[str, Any]  # a file, or its bytes and what to call it


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
        for item in _find_images(Path(source), column):
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


def _find_images(source: Path, column: str) -> Iterator[Encoded]:
    """Every image, in the order of the names."""
    if not source.exists():
        raise ConfigError(f"the image source {source} does not exist.")
    for file in sorted(_walk(source)):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            yield file
        elif file.suffix.lower() == ".parquet":
            yield from _parquet_images(file, column)


def _walk(path: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """The file, or those of a folder; links followed, back to a folder above not; none hidden."""
    if not path.is_dir():
        yield from [path] if path.is_file() and not path.name.startswith(".") else []
    elif (real := os.path.realpath(path)) not in above:
        for entry in path.iterdir():
            if not entry.name.startswith("."):
                yield from _walk(entry, (*above, real))


def _parquet_images(file: Path, column: str) -> Iterator[Encoded]:
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
            yield data if isinstance(data, Path) else {"bytes": data, "path": name}
