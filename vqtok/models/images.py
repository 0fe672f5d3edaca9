"""Anything that holds a picture to one form: uint8 [H, W, 3], upright, sRGB as stored.

One picture gives one array, whatever carries it: 16-bit and float pixels are rounded to 8 bits,
transparency is laid over a background, EXIF orientation is applied. Colour profiles are ignored,
and of an animation the first frame counts. Nothing is downloaded and nothing is resized.
"""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vqtok.errors import ConfigError, InputError

PIXEL_LIMIT = 178_956_970  # where Pillow itself refuses to open a file: 512 MB in RGB
# part of every fingerprint: change it when a picture comes out of here differently
READING = "pillow, 8-bit, upright, colour profile ignored, version 1"
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow's readers raise on broken files; they also warn, and a caller may make that an error
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,
    UserWarning,
    struct.error,
    zlib.error,
)
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)

Background = tuple[int, int, int]


def read_image(
    item: Any, max_pixels: int = PIXEL_LIMIT, background: Background = (255, 255, 255)
) -> np.ndarray:
    """Any picture to a uint8 array [H, W, 3].

    Args:
        item: a PIL image; a path; the bytes of a file; an open binary file; a dict with "bytes" or
            "path", as `datasets.Image(decode=False)` gives; or an array [H, W] or [H, W, C] with
            C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), of uint8, uint16 (65535 is white),
            bool, or float in [0, 1].
        max_pixels: a larger header is refused before the pixels are decoded.
        background: RGB under transparent pixels.

    Raises:
        InputError: no picture; `.status` is decode_error, empty, too_large or nonfinite.
    """
    if isinstance(item, np.ndarray):
        return _flatten(_array_to_pil(item), background, "this array")
    name = _name(item)
    try:
        image = _open(item, name)
        if image.width * image.height > max_pixels:
            raise InputError(
                f"{name} has {image.width} x {image.height} pixels; at most {max_pixels:,} are "
                "read: make it smaller, or raise max_pixels of the processor.",
                status="too_large",
            )
        image.load()
        return _flatten(_upright(image), background, name)
    except InputError:
        raise
    except TOO_LARGE as error:
        raise InputError(f"{name} is too large to open: {error}", status="too_large") from error
    except BROKEN as error:
        raise InputError(
            f"{name} cannot be read as an image: {type(error).__name__}: {error}. "
            "Is the file complete, and is it a picture?"
        ) from error


def check_options(max_pixels: int, background: Any) -> None:
    if not 1 <= max_pixels <= PIXEL_LIMIT:
        raise ConfigError(
            f"max_pixels must be 1 to {PIXEL_LIMIT:,}, where Pillow stops; got {max_pixels}."
        )
    if len(background) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in background):
        raise ConfigError(f"background must be three numbers 0 to 255; got {background!r}.")


def _name(item: Any) -> str:
    """How an error calls the item."""
    if isinstance(item, dict):
        return str(item.get("path") or "this image")
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    return str(getattr(item, "filename", "") or getattr(item, "name", "") or "this image")


def _open(item: Any, name: str) -> Image.Image:
    if isinstance(item, Image.Image):
        image = item
    elif isinstance(item, dict):
        if item.get("bytes") is None and item.get("path") is None:
            raise InputError(f'{name}: a dict wants "bytes" or "path"; it has {sorted(item)}.')
        image = _open(item["path"] if item.get("bytes") is None else item["bytes"], name)
    elif isinstance(item, (str, os.PathLike)):
        # read whole: an open file would outlive a decoding error
        image = _open(Path(item).read_bytes(), name)
    elif isinstance(item, (bytes, bytearray, memoryview)):
        if not len(item):
            raise InputError(f"{name} is empty: 0 bytes.", status="empty")
        image = Image.open(io.BytesIO(item))
    elif hasattr(item, "read"):
        image = _open(item.read(), name)
    else:
        raise InputError(
            "an image is a PIL image, a path, bytes, an open file, a dict with bytes or path, or "
            f"an array [H, W, C]; got a {type(item).__name__}. Tensors go to encode()."
        )
    if not image.width or not image.height:
        raise InputError(f"{name} has no pixels: {image.width} x {image.height}.", status="empty")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """EXIF orientation applied; broken EXIF costs the orientation, not the picture."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except BROKEN:
        return image
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image, background: Background, name: str) -> np.ndarray:
    """A loaded PIL image of any mode to uint8 [H, W, 3]."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image, name)
    if image.mode == "LAB":
        raise InputError(f"{name} is in LAB colours, which have no fixed RGB: convert it first.")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        if image.mode in ("La", "PA"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(under, image)
    return np.array(image.convert("RGB"))


def _deep_grey(image: Image.Image, name: str) -> np.ndarray:
    """Modes with more than 8 bits: "I" and "I;16" hold 0 to 65535, "F" holds 0 to 1."""
    values = np.array(image)
    if image.mode != "F" and values.size and (values.min() < 0 or values.max() > 65535):
        raise InputError(
            f"{name} has integer pixels from {values.min()} to {values.max()}; "
            "0 to 65535 (white) is understood."
        )
    dtype = np.float32 if image.mode == "F" else np.uint16
    grey = _to_uint8(values.astype(dtype), name)
    return np.repeat(grey[..., None], 3, axis=-1)


def _array_to_pil(array: np.ndarray) -> Image.Image:
    if array.size == 0:
        raise InputError(f"this array has no pixels: {list(array.shape)}.", status="empty")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or not 1 <= channels <= 4:
        raise InputError(
            "an image array is [H, W] or [H, W, C] with 1 to 4 channels, channels last; got "
            f"{list(array.shape)}. Tensors [B, C, H, W] go to encode()."
        )
    pixels = _to_uint8(array, "this array")
    if array.ndim == 3 and channels == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """uint8 as it is; uint16, bool and floats in [0, 1] rounded to 8 bits."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(
            f"{name} holds {values.dtype}; an image holds uint8, uint16, bool, or float in [0, 1]: "
            "call .astype(numpy.uint8) if its values are 0 to 255."
        )
    if not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinity.", status="nonfinite")
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"{name} holds floats from {values.min():.4g} to {values.max():.4g}; an image holds "
            "floats in [0, 1]: divide by 255, or pass uint8."
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
