"""What an input of each modality is on disk: which files, which columns, and how bytes become one.

image, audio  a file's bytes, as they are
text          UTF-8: a .txt file is one text; a string of a table
embedding     one row of numbers: a .npy or .npz file holds many; a list of floats of a table
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vqtok.errors import ConfigError, InputError

if TYPE_CHECKING:
    from vqtok.data.sources import RawSample


@dataclass(frozen=True)
class Modality:
    """Where the inputs of a modality are found.

    Attributes:
        suffixes: of files that hold inputs; a file with another suffix is not one.
        columns: names that a table's column of inputs usually has, the likeliest first.
        holds: whether a column of this arrow type can hold inputs.
        cell: what such a column holds, for an error.
        plural: how inputs are counted, for a person.
    """

    suffixes: frozenset[str]
    columns: tuple[str, ...]
    holds: Callable[[pa.DataType], bool]
    cell: str
    plural: str


def holds_bytes(kind: pa.DataType) -> bool:
    """Raw bytes, or a struct {bytes, path} as `datasets.Image` and `datasets.Audio` write it."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and holds_bytes(kind.field(index).type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in binary)


def holds_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def holds_vectors(kind: pa.DataType) -> bool:
    """Lists of floats, of one fixed size or not."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and pa.types.is_floating(kind.value_type)


BYTES = "raw bytes: binary, or a struct with a binary field 'bytes'"
IMAGE_SUFFIXES = (
    *("png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff"),
    *("ppm", "pgm", "pbm", "pnm", "tga", "jp2", "avif", "heic", "heif"),
)
AUDIO_SUFFIXES = ("wav", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "au", "w64", "caf")


def _dotted(*suffixes: str) -> frozenset[str]:
    return frozenset(f".{suffix}" for suffix in suffixes)


MODALITIES = {
    "image": Modality(_dotted(*IMAGE_SUFFIXES), ("image", "img"), holds_bytes, BYTES, "images"),
    "audio": Modality(_dotted(*AUDIO_SUFFIXES), ("audio", "sound"), holds_bytes, BYTES, "sounds"),
    # not .md: a folder of tables has a README.md, which is no text of the data set
    "text": Modality(_dotted("txt"), ("text", "content"), holds_text, "strings", "texts"),
    "embedding": Modality(
        _dotted("npy", "npz"),
        ("embedding", "embeddings", "vector", "vectors"),
        holds_vectors,
        "lists of floats",
        "vectors",
    ),
}


def modality_of(name: str) -> Modality:
    if name not in MODALITIES:
        raise ConfigError(
            f"datasets of {name!r} cannot be read; there are {sorted(MODALITIES)}. Call the "
            "tokenizer's tokenize() on the items instead."
        )
    return MODALITIES[name]


def item_of(sample: "RawSample", modality: str) -> Any:
    """What the tokenizer takes for one input: bytes, a str, or an array [D].

    Raises:
        InputError: there is no input, it is empty, or its bytes are no text.
    """
    if sample.error is not None:
        raise sample.error
    data = sample.data
    if modality == "text" and isinstance(data, bytes):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8 text: {error}") from error
    if isinstance(data, bytes) and not data:
        raise InputError("0 bytes", "empty")
    return data


def hashed_bytes(data: bytes | str | np.ndarray) -> bytes:
    """The bytes that `content_hash` is taken of: the same input gives the same, wherever it lies.

    A vector counts as little-endian float32, a string as UTF-8.
    """
    if isinstance(data, np.ndarray):
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
            return np.ascontiguousarray(data, dtype="<f4").tobytes()
    return data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
