"""Texts as bytes, and patches that are worked on once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqtok.errors import InputError
from vqtok.models.text_vq.text_processing_text_vq import (
    PAD,
    Patches,
    distinct_codes,
    read_text,
    to_patches,
    write_text,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_every_str_has_bytes_of_its_own(text):
    assert write_text(read_text(text), exact=True) == text


def test_bytes_and_files_are_read_as_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes("Grüße\r\n".encode())

    for item in ("Grüße\r\n", "Grüße\r\n".encode(), tmp_path / "a.txt"):
        assert read_text(item).tobytes() == "Grüße\r\n".encode()
    assert read_text(str(tmp_path)).tobytes() == str(tmp_path).encode()


@pytest.mark.parametrize("item", [None, 7, ["a"], b"\xff\xfe", b"\xed\xa0\x80", torch.zeros(3)])
def test_what_is_no_text_is_refused(item):
    with pytest.raises(InputError) as caught:
        read_text(item)

    assert caught.value.status == "decode_error"


def test_a_file_that_is_not_there_or_not_text_is_refused_by_name(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"\x80")

    for name in ("a.txt", "b.txt"):
        with pytest.raises(InputError, match=name):
            read_text(tmp_path / name)


def test_bytes_that_are_no_text_show_as_replacement_characters():
    data = np.frombuffer(b"a\xff\xed\xa0\x80b", np.uint8)

    text = write_text(data, exact=False)

    assert text[0] + text[-1] == "ab"
    assert set(text[1:-1]) == {"\N{REPLACEMENT CHARACTER}"}


def test_the_last_patch_is_filled_up():
    patches = to_patches(torch.arange(5)[None], 4)

    assert patches.tolist() == [[[0, 1, 2, 3], [4, PAD, PAD, PAD]]]
    assert to_patches(torch.zeros(2, 0, dtype=torch.int64), 4).shape == (2, 0, 4)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.integers(1, 7))
def test_patches_of_texts_are_those_of_each_text_and_all_different(texts, size):
    texts = [np.frombuffer(text, np.uint8) for text in texts]

    patches = Patches(texts, size)

    assert len({tuple(row) for row in patches.rows.tolist()}) == len(patches.rows)
    for text, rows in zip(texts, patches.of_texts(patches.rows.numpy()), strict=True):
        alone = to_patches(torch.from_numpy(text.astype(np.int64))[None], size)[0]
        assert np.array_equal(rows, alone.numpy())


def test_a_patch_that_ends_is_not_one_that_goes_on_with_zeros():
    texts = [np.frombuffer(text, np.uint8) for text in (b"ab", b"ab\0\0", b"abcdab")]

    patches = Patches(texts, 4)

    assert len(patches.rows) == 3
    assert (patches.rows == PAD).sum() == 2


def test_a_million_equal_letters_are_two_patches():
    patches = Patches([np.full(1_000_001, 97, np.uint8)], 4)

    assert len(patches.rows) == 2
    assert patches.splits == [250_001]


@pytest.mark.parametrize("shape", [(1, 50), (2, 500), (6, 100), (3, 0)])
def test_different_codes_give_all_codes_back(shape):
    codes = np.random.default_rng(0).integers(4096, size=shape) % 5 * 819

    different, inverse = distinct_codes(codes, [4096] * shape[0])

    assert np.array_equal(different[:, inverse], codes)
    assert different.shape[1] == len({tuple(column) for column in codes.T.tolist()})
