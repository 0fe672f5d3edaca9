"""Escapes: the bytes that a decoder gets wrong, as a short text that JSON can hold.

    base64 of   one byte   0: the rest is as follows; 1: it is compressed with zlib
                varint     number of runs, in the order of their places
                varints    of each run: 2 * (right bytes since the run before) + (longer than 1)
                varints    of each longer run: its length - 2
                bytes      of all runs, one after the other

A varint is little-endian base 128, the high bit set on all its bytes but the last. Two runs with
few right bytes between them become one. The empty text is no escape at all. Nothing costs more
than one run over everything: the bytes as they are, and about ten more before base64.
"""

import base64
import binascii
import zlib

import numpy as np

from vqtok.errors import FormatError

PLAIN, COMPRESSED = b"\0", b"\1"
CARRIED = 1  # right bytes between two runs that cost no more than a new run
LEAST_COMPRESSED = 64  # shorter streams never gain
MAX_VARINT_BYTES = 9  # 63 bits


def write_escapes(wrong: np.ndarray, data: np.ndarray) -> str:
    """The escapes for the bytes at `wrong`, "" for none.

    Args:
        wrong: int64 [n], places in `data`, each larger than the one before.
        data: uint8 [L], the bytes as they should be.
    """
    if not wrong.size:
        return ""
    begins = np.flatnonzero(np.diff(wrong, prepend=-CARRIED - 2) > CARRIED + 1)
    starts, ends = wrong[begins], wrong[np.append(begins[1:] - 1, wrong.size - 1)] + 1
    stream = _stream(starts, ends, data)
    everything = _stream(np.array([0]), np.array([data.size]), data)
    body = PLAIN + min(stream, everything, key=len)
    if len(body) >= LEAST_COMPRESSED:
        body = min(body, COMPRESSED + zlib.compress(body[1:]), key=len)
    return base64.b64encode(body).decode("ascii")


def apply_escapes(text: str, data: np.ndarray) -> np.ndarray:
    """`data` with the escaped bytes put right, a new array.

    Args:
        text: from `write_escapes`.
        data: uint8 [L], the bytes as they were decoded.

    Raises:
        FormatError: `text` was not written by `write_escapes` for `L` bytes.
    """
    data = data.copy()
    if text == "":
        return data
    stream = np.frombuffer(_unpacked(text, data.size), np.uint8)
    (number,), stream = _split_varints(stream, 1)
    steps, stream = _split_varints(stream, int(number))
    longer = (steps & 1).astype(bool)
    rest, stream = _split_varints(stream, int(longer.sum()))
    lengths = np.ones_like(steps)
    lengths[longer] = rest + 2
    if lengths.size == 0 or max(int(lengths.max()), int(steps.max() >> 1)) > data.size:
        raise _damaged("a run lies outside the text")
    ends = np.cumsum((steps >> 1) + lengths)
    if ends[-1] > data.size or lengths.sum() != stream.size:
        raise _damaged("its runs do not fit the text")
    data[_places(ends - lengths, lengths)] = stream
    return data


def escape_bytes(text: str) -> int:
    """Bytes of the escapes before base64, which adds a third."""
    return len(text) * 3 // 4 - text[-2:].count("=")


def _stream(starts: np.ndarray, ends: np.ndarray, data: np.ndarray) -> bytes:
    lengths = ends - starts
    steps = starts - np.concatenate([[0], ends[:-1]])
    longer = lengths > 1
    numbers = [[len(starts)], 2 * steps + longer, lengths[longer] - 2]
    return _varints(np.concatenate(numbers)) + data[_places(starts, lengths)].tobytes()


def _places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All places inside runs: int64 [sum of the lengths]."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _varints(numbers: np.ndarray) -> bytes:
    """Non-negative int64 numbers, one after the other."""
    sizes = np.ones(numbers.size, np.int64)
    for more in range(1, MAX_VARINT_BYTES):
        sizes += numbers >> (7 * more) > 0
    before = np.cumsum(sizes) - sizes
    place = np.arange(sizes.sum()) - np.repeat(before, sizes)  # of a byte within its number
    groups = np.repeat(numbers, sizes) >> (7 * place) & 127
    last = place == np.repeat(sizes, sizes) - 1
    return np.where(last, groups, groups | 128).astype(np.uint8).tobytes()


def _split_varints(stream: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` numbers of a stream, int64, and what follows them."""
    if count == 0:
        return np.empty(0, np.int64), stream
    ends = np.flatnonzero(stream < 128)[:count]
    if ends.size < count:
        raise _damaged("it ends too early")
    used = stream[: ends[-1] + 1].astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > MAX_VARINT_BYTES:
        raise _damaged("a number in it is too long")
    place = np.arange(used.size) - np.repeat(starts, sizes)
    return np.add.reduceat((used & 127) << (7 * place), starts), stream[used.size :]


def _unpacked(text: str, num_bytes: int) -> bytes:
    """The stream inside base64 and zlib, never larger than one for `num_bytes` bytes can be."""
    if not isinstance(text, str):
        raise _damaged(f"it is a {type(text).__name__}, not a text")
    try:
        body = base64.b64decode(text, validate=True)
        if body[:1] != COMPRESSED:
            content = body[1:]
        else:
            limit = (2 * MAX_VARINT_BYTES + 1) * (num_bytes + 1)
            content = zlib.decompressobj().decompress(body[1:], limit)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise _damaged(str(error)) from error
    if body[:1] not in (PLAIN, COMPRESSED) or not content:
        raise _damaged("it does not begin as escapes do")
    return content


def _damaged(why: str) -> FormatError:
    return FormatError(
        f"the escapes of a text are damaged: {why}. Tokenize the text again; codes without "
        "escapes are decoded by leaving `escapes` and `crc32` out of `meta`."
    )
