"""Packing: smallest dtypes at their edges, casts that look, bits that come back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqtok.errors import CodeRangeError, ConfigError, FormatError, ShapeError
from vqtok.ops import checked_cast, pack_bits, smallest_dtype, unpack_bits
from vqtok.ops.packing import BLOCK


@pytest.mark.parametrize(
    ("codebook_size", "dtype"),
    [
        (1, np.uint8),
        (256, np.uint8),
        (257, np.uint16),
        (65_536, np.uint16),
        (65_537, np.uint32),
        (2**32, np.uint32),
    ],
)
def test_the_smallest_dtype_holds_the_largest_code(codebook_size, dtype):
    assert smallest_dtype(codebook_size) == dtype
    assert checked_cast(np.array([codebook_size - 1]), codebook_size)[0] == codebook_size - 1


@pytest.mark.parametrize("codebook_size", [0, -1, 2**32 + 1])
def test_a_codebook_size_without_a_dtype_is_refused(codebook_size):
    with pytest.raises(ConfigError, match=f"got {codebook_size}"):
        smallest_dtype(codebook_size)


@pytest.mark.parametrize("make", [torch.tensor, np.array])
@pytest.mark.parametrize(
    ("codes", "codebook_size"), [([0, 256], 256), ([-1, 3], 256), ([70_000], 65_536), ([5], 5)]
)
def test_a_code_outside_the_codebook_is_refused_not_wrapped(make, codes, codebook_size):
    with pytest.raises(CodeRangeError, match=f"codes 0 to {codebook_size - 1}"):
        checked_cast(make(codes), codebook_size)


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(3),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.bfloat16),
        np.zeros(3),
        np.zeros(3, bool),
    ],
)
def test_codes_that_are_not_integers_are_refused(codes):
    with pytest.raises(ShapeError, match="integer dtype"):
        checked_cast(codes, 10)


def test_the_cast_keeps_shape_and_values_and_copies():
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)

    stored = checked_cast(codes, 12)
    stored[0, 0] = 9

    assert codes[0, 0] == 0
    assert np.array_equal(checked_cast(torch.from_numpy(codes), 12), codes)
    assert checked_cast(torch.empty(0, 2, dtype=torch.int64), 12).shape == (0, 2)


@given(st.data(), st.integers(1, 32))
def test_packed_codes_come_back_in_exactly_the_bytes_they_need(data, bits):
    codes = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70)), np.int64)

    packed = pack_bits(codes, bits)

    assert len(packed) == -(-codes.size * bits // 8)
    back = unpack_bits(packed, bits, codes.size)
    assert back.dtype == smallest_dtype(2**bits)
    assert np.array_equal(back, codes)


@given(st.data(), st.integers(1, 32))
def test_the_bytes_are_one_little_endian_number(data, bits):
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=20))

    number = sum(code << (i * bits) for i, code in enumerate(codes))

    packed = pack_bits(np.array(codes), bits)
    assert packed == number.to_bytes(len(packed), "little")


@pytest.mark.parametrize("bits", [3, 11, 16])
def test_blocks_join_without_a_seam(bits):
    codes = torch.randint(0, 2**bits, (2 * BLOCK + 5,))

    packed = pack_bits(codes, bits)

    assert np.array_equal(unpack_bits(packed, bits, codes.numel()), codes.numpy())


@pytest.mark.parametrize("code", [8, -1])
def test_a_code_wider_than_its_field_is_refused(code):
    with pytest.raises(CodeRangeError, match="codes 0 to 7"):
        pack_bits(np.array([1, code]), 3)


@pytest.mark.parametrize("bits", [0, 33])
def test_bits_outside_1_to_32_are_refused(bits):
    with pytest.raises(ConfigError, match=f"got {bits}"):
        pack_bits(np.array([0]), bits)
    with pytest.raises(ConfigError, match=f"got {bits}"):
        unpack_bits(b"", bits, 0)


@pytest.mark.parametrize(
    ("data", "said"), [(b"\x01", "2 bytes; got 1"), (b"\1\0\0", "got 3"), (b"\0\x80", "after")]
)
def test_data_of_another_length_or_with_bits_after_the_end_is_refused(data, said):
    with pytest.raises(FormatError, match=said):
        unpack_bits(data, 5, 3)


def test_a_negative_count_is_refused():
    with pytest.raises(ConfigError, match="got -1"):
        unpack_bits(b"", 8, -1)
