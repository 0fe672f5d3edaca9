"""gzip and xz on whole texts: what a text tokenizer's bits per byte are measured beside."""

import gzip
import lzma
from collections.abc import Callable

from vqtok.errors import ConfigError

# whole files, headers and checksums counted
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, compresslevel=9, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=9),
}


def compressed_bytes(text: bytes, codec: str) -> int:
    """Bytes of the smallest file that the codec makes of one text."""
    if codec not in CODECS:
        raise ConfigError(f"codec must be one of {sorted(CODECS)}; got {codec!r}.")
    return len(CODECS[codec](text))
