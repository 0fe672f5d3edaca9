"""Escapes: every byte put right, at no more than the bytes themselves, and nothing else read."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqtok.errors import FormatError
from vqtok.models.text_vq.escapes import apply_escapes, escape_bytes, write_escapes


def random_bytes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=count).astype(np.uint8)


def through(data: np.ndarray, decoded: np.ndarray) -> tuple[str, np.ndarray]:
    text = write_escapes(np.flatnonzero(data != decoded), data)
    return text, apply_escapes(text, decoded)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_wrong_bytes_are_put_right(data, noise):
    data = np.frombuffer(data, np.uint8)
    decoded = np.resize(
        np.frombuffer(noise, np.uint8) if noise else np.zeros(1, np.uint8), data.size
    )

    text, back = through(data, decoded)

    assert np.array_equal(back, data)
    assert text.isascii()
    assert escape_bytes(text) <= data.size + 8


@pytest.mark.parametrize("count", [1, 63, 64, 8191, 8192, 1_000_000])
def test_one_byte_anywhere_is_put_right_for_a_few_bytes(count):
    data = random_bytes(count)
    for place in (0, count // 2, count - 1):
        decoded = data.copy()
        decoded[place] ^= 1

        text, back = through(data, decoded)

        assert np.array_equal(back, data)
        assert escape_bytes(text) <= 6


def test_nothing_wrong_is_the_empty_text():
    assert write_escapes(np.zeros(0, np.int64), random_bytes(9)) == ""
    assert np.array_equal(apply_escapes("", random_bytes(9)), random_bytes(9))
    assert escape_bytes("") == 0


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_hard_text_costs_no_more_than_its_bytes_and_an_easy_one_much_less(share):
    data = random_bytes(100_000)
    wrong = np.flatnonzero(np.random.default_rng(1).random(data.size) < share)

    text = write_escapes(wrong, data)

    assert escape_bytes(text) == len(base64.b64decode(text))
    assert escape_bytes(text) <= min(data.size + 8, 3.2 * wrong.size + 8)


def test_a_repeated_hard_byte_costs_next_to_nothing():
    data = np.full(1_000_000, 7, np.uint8)

    text, back = through(data, np.zeros_like(data))

    assert np.array_equal(back, data)
    assert escape_bytes(text) < 2_000


def test_the_bytes_decoded_are_left_as_they_are():
    decoded = random_bytes(20)
    before = decoded.copy()

    apply_escapes(write_escapes(np.array([3]), random_bytes(20, 1)), decoded)

    assert np.array_equal(decoded, before)


def packed(*numbers: int, flag: int = 0) -> str:
    return base64.b64encode(bytes([flag, *numbers])).decode()


@pytest.mark.parametrize(
    "text",
    [
        7,
        "not base64!",
        "ä",
        packed(),
        packed(2, 1, flag=2),
        packed(0),
        packed(1),
        packed(1, 0),
        packed(1, 0, 65, 66),
        packed(1, 40, 65),
        packed(1, 1, 99, 65),
        packed(2, 10, 20, 65, 66),
        packed(*[255] * 12),
        packed(1, *[255] * 9, 1, 65),
        packed(120, 156, 1, flag=1),
        base64.b64encode(b"\1" + zlib.compress(b"")).decode(),
        base64.b64encode(b"\1" + zlib.compress(bytes(10**7))).decode(),
    ],
)
def test_damaged_escapes_are_refused(text):
    with pytest.raises(FormatError, match="escapes of a text are damaged"):
        apply_escapes(text, random_bytes(12))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 40))
def test_garbage_is_refused_or_harmless(garbage, size):
    decoded = np.zeros(size, np.uint8)
    try:
        back = apply_escapes(base64.b64encode(garbage).decode(), decoded)
    except FormatError:
        return
    assert back.shape == decoded.shape
