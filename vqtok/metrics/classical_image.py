"""JPEG and WebP at no more bytes than the codes take: what a tokenizer is measured beside.

All bytes of a file are counted, its headers too, as they have to be stored: for a small picture at
a low rate even the smallest file may be too large, and then there is none.
"""

import io

from PIL import Image

from vqtok.errors import ConfigError

# the range of `quality` that is searched, and the options that make the smallest files
CODECS = {
    "JPEG": (1, 95, {"optimize": True, "progressive": True}),
    "WEBP": (0, 100, {"method": 6}),
}


def encode_within(image: Image.Image, codec: str, max_bytes: int) -> bytes | None:
    """The file of the highest quality that has at most `max_bytes`; None if not even the lowest.

    Args:
        image: RGB.
        codec: "JPEG" or "WEBP".
        max_bytes: of the whole file.
    """
    if codec not in CODECS:
        raise ConfigError(f"codec must be one of {sorted(CODECS)}; got {codec!r}.")
    low, high, options = CODECS[codec]
    best = None
    while low <= high:
        middle = (low + high) // 2
        out = io.BytesIO()
        image.save(out, codec, quality=middle, **options)
        if out.tell() <= max_bytes:
            best, low = out.getvalue(), middle + 1
        else:
            high = middle - 1
    return best


def decode(data: bytes) -> Image.Image:
    """The picture in a file, RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")
