"""Codes as small integers: the smallest dtype, casts that check, exact bit packing."""

import numpy as np
import torch
from torch import Tensor

from vqtok.errors import CodeRangeError, ConfigError, FormatError, ShapeError

MAX_CODEBOOK_SIZE = 2**32
BLOCK = 2**16  # codes packed at a time: 32 scratch bytes each; a multiple of 8, so bytes stay whole


def smallest_dtype(codebook_size: int) -> np.dtype:
    """The dtype that codes are stored in: uint8 up to K = 256, uint16 up to 65,536, else uint32.

    Raises:
        ConfigError: codebook_size is not in 1 to 2**32.
    """
    if not 1 <= codebook_size <= MAX_CODEBOOK_SIZE:
        raise ConfigError(f"codebook_size must be 1 to {MAX_CODEBOOK_SIZE}; got {codebook_size}.")
    if codebook_size <= 2**8:
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if codebook_size <= 2**16 else np.dtype(np.uint32)


def checked_cast(codes: Tensor | np.ndarray, codebook_size: int) -> np.ndarray:
    """Codes in the smallest dtype of their codebook, after looking at every one of them.

    A plain cast wraps silently: 70,000 as uint16 is 4,464.

    Args:
        codes: any shape, any integer dtype, any device.
        codebook_size: K.

    Returns:
        A new array, same shape, dtype `smallest_dtype(codebook_size)`.

    Raises:
        CodeRangeError: a code outside [0, K).
        ShapeError: the dtype is not an integer one.
    """
    dtype = smallest_dtype(codebook_size)
    integers = _integer_array(codes)
    if integers.size:
        low, high = int(integers.min()), int(integers.max())
        if low < 0 or high >= codebook_size:
            raise CodeRangeError(
                f"a codebook of {codebook_size} has codes 0 to {codebook_size - 1}, but codes "
                f"from {low} to {high} came. Were they made by another tokenizer, or shifted "
                "into a shared vocabulary?"
            )
    return integers.astype(dtype)


def pack_bits(codes: Tensor | np.ndarray, bits: int) -> bytes:
    """Codes as fields of `bits` bits, one after the other, low bits first.

    Code i takes bits i * bits to (i + 1) * bits of the stream, and bit j of the stream is bit
    j % 8, counted from the lowest, of byte j // 8. Zeros fill the last byte.

    Args:
        codes: any shape (read in row-major order), any integer dtype, each in [0, 2**bits).
        bits: 1 to 32.

    Returns:
        ceil(count * bits / 8) bytes.

    Raises:
        CodeRangeError: a code outside [0, 2**bits).
        ShapeError: the dtype is not an integer one.
        ConfigError: bits is not in 1 to 32.
    """
    _check_bits(bits)
    flat = checked_cast(codes, 2**bits).reshape(-1)
    packed = []
    for start in range(0, flat.size, BLOCK):
        words = flat[start : start + BLOCK].astype("<u4").view(np.uint8).reshape(-1, 4)
        fields = np.unpackbits(words, axis=1, count=bits, bitorder="little")  # [n, bits]
        packed.append(np.packbits(fields, bitorder="little").tobytes())
    return b"".join(packed)


def unpack_bits(data: bytes, bits: int, count: int) -> np.ndarray:
    """The codes that `pack_bits` packed.

    Args:
        data: exactly ceil(count * bits / 8) bytes.
        bits: 1 to 32.
        count: number of codes.

    Returns:
        [count], dtype `smallest_dtype(2**bits)`.

    Raises:
        FormatError: another number of bytes, or bits set after the last code.
        ConfigError: bits is not in 1 to 32, or count is negative.
    """
    _check_bits(bits)
    if count < 0:
        raise ConfigError(f"count must be at least 0; got {count}.")
    raw, wanted = np.frombuffer(data, np.uint8), -(-count * bits // 8)
    if raw.size != wanted:
        raise FormatError(
            f"{count} codes of {bits} bits take {wanted} bytes; got {raw.size}. "
            "Is the data cut off, or was it packed with other bits?"
        )
    if count * bits % 8 and raw[-1] >> (count * bits % 8):
        raise FormatError(
            f"bits are set after the last of {count} codes of {bits} bits; "
            "was the data packed with other bits?"
        )
    codes = np.empty(count, smallest_dtype(2**bits))
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        block = raw[start * bits // 8 : -(-(start + n) * bits // 8)]
        fields = np.unpackbits(block, count=n * bits, bitorder="little").reshape(n, bits)
        words = np.zeros((n, 32), np.uint8)
        words[:, :bits] = fields
        codes[start : start + n] = np.packbits(words, axis=1, bitorder="little").view("<u4")[:, 0]
    return codes


def _integer_array(codes: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(codes, Tensor):
        dtype = codes.dtype
        whole = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    else:
        codes = np.asarray(codes)
        dtype, whole = codes.dtype, np.issubdtype(codes.dtype, np.integer)
    if not whole:
        raise ShapeError(f"codes must have an integer dtype; got {dtype}.")
    return codes.cpu().numpy() if isinstance(codes, Tensor) else codes


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 32:
        raise ConfigError(f"bits must be 1 to 32; got {bits}.")
