"""Codes alone, what a text tokenizer refuses, and its files."""

import json

import numpy as np
import pytest
import torch

from tests.models.text_vq.small import CODE, ENGLISH, bytes_of, started
from vqtok import AutoVQTokenizer
from vqtok.errors import (
    CodeRangeError,
    ConfigError,
    FingerprintError,
    FormatError,
    InputError,
    ShapeError,
)
from vqtok.models.base import VQTokens
from vqtok.models.text_vq import TextVQConfig, TextVQModel


@pytest.fixture(scope="module")
def model() -> TextVQModel:
    return started()


@pytest.fixture(scope="module")
def untrained() -> TextVQModel:
    """Random codes: nearly every byte is wrong."""
    return TextVQModel(TextVQConfig.preset("nano")).eval()


def test_without_escapes_the_text_is_what_the_codes_say(model):
    (tokens,) = model.tokenize([ENGLISH + "Ω漢"], lossless=False)
    (back,) = model.detokenize([tokens])

    assert set(tokens.meta) == {"bytes"}
    assert back.startswith(ENGLISH)
    assert back != ENGLISH + "Ω漢"
    assert model.bits_of(tokens) == pytest.approx(18 * tokens.codes.shape[1])


def test_codes_without_meta_are_decoded_whole(model):
    codes = model.encode(bytes_of(ENGLISH))[0]

    (back,) = model.detokenize([VQTokens(codes, {}, model.fingerprint.decode)])

    assert back[: len(ENGLISH)] == ENGLISH


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": 3},
        {"bytes": -1},
        {"bytes": "12"},
        {"bytes": 10**9},
        {"crc32": 1},
        {"escapes": "AAAA"},
        {"escapes": 5},
    ],
)
def test_meta_that_does_not_fit_is_refused(model, change):
    (tokens,) = model.tokenize([ENGLISH])

    with pytest.raises(FormatError):
        model.detokenize([VQTokens(tokens.codes, tokens.meta | change, tokens.fingerprint)])


def test_levels_cut_off_after_tokenizing_are_an_error_and_no_wrong_text(model):
    (tokens,) = model.tokenize([ENGLISH])

    with pytest.raises(FormatError, match="checksum differs"):
        model.detokenize([VQTokens(tokens.codes[:1], tokens.meta, tokens.fingerprint)])


def test_codes_of_another_tokenizer_or_out_of_range_are_refused(model, untrained):
    (tokens,) = model.tokenize([ENGLISH])

    with pytest.raises(FingerprintError):
        untrained.detokenize([tokens])
    with pytest.raises(CodeRangeError):
        model.detokenize([VQTokens(tokens.codes + 512, tokens.meta, tokens.fingerprint)])
    with pytest.raises(ShapeError, match=r"\[q, T\]"):
        model.detokenize([VQTokens(tokens.codes[None], tokens.meta, tokens.fingerprint)])


@pytest.mark.parametrize(
    "values", [torch.zeros(3, dtype=torch.int64), torch.zeros(1, 4), torch.zeros(1, 1, 4).long()]
)
def test_tensors_of_another_form_are_refused(model, values):
    with pytest.raises(ShapeError, match="bytes int64"):
        model.encode(values)


def test_numbers_that_are_no_bytes_are_refused(model):
    for value in (-1, 257):
        with pytest.raises(InputError, match="bytes are 0 to 255"):
            model.encode(torch.tensor([[value]]))


def test_items_that_are_no_list_of_texts_are_refused(model):
    with pytest.raises(InputError, match="wants a list"):
        model.tokenize("text")
    with pytest.raises(InputError, match="must be a str"):
        model.tokenize(["a", 7])
    with pytest.raises(ConfigError, match="batch_size"):
        model.tokenize(["a"], batch_size=0)
    with pytest.raises(ConfigError, match="num_codebooks"):
        model.tokenize(["a"], num_codebooks=3)


@pytest.mark.parametrize(
    "fields",
    [
        {"patch_bytes": 0},
        {"patch_bytes": 8},
        {"latent_dim": 9},
        {"latent_dim": 40},
        {"width": 4},
        {"encoder_depth": -1},
        {"quantizer_config": {"codebook_size": 4}},
        {"quantizer_config": {"kind": "spatial", "codebook_size": 4}},
        {"colour": "red"},
    ],
)
def test_configurations_that_cannot_be_are_refused(fields):
    with pytest.raises(ConfigError):
        TextVQConfig.preset("tiny", **fields)
    with pytest.raises(ConfigError, match="presets are"):
        TextVQConfig.preset("huge")


# Files.


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_saved_tokenizer_is_the_same(model, tmp_path, dtype):
    model.save_pretrained(tmp_path, dtype=dtype)

    loaded = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)
    tokens = loaded.tokenize([ENGLISH, CODE + "\N{SNOWMAN}"])

    assert loaded.detokenize(tokens) == [ENGLISH, CODE + "\N{SNOWMAN}"]
    assert loaded.quantizer.codebooks[0].is_frozen
    if dtype is None:
        assert loaded.fingerprint == model.fingerprint
        assert torch.equal(tokens[0].codes, model.tokenize([ENGLISH])[0].codes)


def test_rows_of_a_dataset_come_back(model):
    (tokens,) = model.tokenize([CODE + "漢"])
    row = {
        "codes": tokens.codes.numpy().astype(np.uint16).ravel(),
        "shape": list(tokens.codes.shape),
        "meta": json.dumps(tokens.meta),
        "codes_fp": tokens.fingerprint[:16],
    }

    assert model.detokenize([row]) == [CODE + "漢"]
