import copy
import hashlib
import json
import struct

import pytest
import torch

from tests.models.toy_tokenizer import ToyTokenizer, noise_image, toy_tokenizer
from vqtok.models.fingerprint import (
    FingerprintCache,
    canonical_json,
    fingerprint_of,
    tensor_digest,
)

KINDS = ("encode", "decode", "codebook")


def changed(before: ToyTokenizer, after: ToyTokenizer) -> set[str]:
    """Which digests differ."""
    one, two = before.fingerprint, after.fingerprint
    return {kind for kind in KINDS if getattr(one, kind) != getattr(two, kind)}


@pytest.fixture
def toy() -> ToyTokenizer:
    return toy_tokenizer()


@pytest.fixture
def other(toy) -> ToyTokenizer:
    return copy.deepcopy(toy)


def test_a_tensor_has_this_digest_on_every_machine():
    values = torch.tensor([[1.0, -2.5, 3.25]])

    bytes_of_it = b"(1, 3)|float32|" + struct.pack("<3f", 1.0, -2.5, 3.25)
    assert tensor_digest(values) == hashlib.sha256(bytes_of_it).hexdigest()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_storage_does_not_matter(dtype):
    values = torch.arange(12.0).view(3, 4) / 8

    assert tensor_digest(values.to(dtype)) == tensor_digest(values)


def test_shape_order_and_kind_do_matter():
    values = torch.arange(6.0)
    digests = [
        tensor_digest(values),
        tensor_digest(values.view(2, 3)),
        tensor_digest(values.view(3, 2)),
        tensor_digest(values.flip(0)),
        tensor_digest(values.long()),
    ]

    assert len(set(digests)) == len(digests)


def test_memory_layout_does_not_matter():
    values = torch.rand(4, 5)

    assert tensor_digest(values.T.contiguous().T) == tensor_digest(values)


def test_digests_are_64_hex_digits_and_repeat(toy, other):
    for kind in KINDS:
        digest = getattr(toy.fingerprint, kind)
        assert len(digest) == 64
        assert int(digest, 16) >= 0
    assert changed(toy, other) == set()


def test_another_encoder_gives_other_codes_of_the_same_meaning(toy, other):
    with torch.no_grad():
        other.encoder.project.bias[0] += 1

    assert changed(toy, other) == {"encode"}


def test_another_decoder_leaves_the_codebook(toy, other):
    with torch.no_grad():
        other.decoder.project.bias[0] += 1

    assert changed(toy, other) == {"encode", "decode"}


def test_another_codebook_changes_everything(toy, other):
    other.quantizer.codebook.codes[3, 1] += 0.01

    assert changed(toy, other) == set(KINDS)


def test_statistics_and_freezing_change_nothing(toy, other):
    other.quantizer.codebook.code_counts.add_(5)
    other.quantizer.codebook.code_sums.mul_(2)
    other.quantizer.freeze()

    assert changed(toy, other) == set()


def test_training_options_change_nothing_and_others_do():
    plain = {"kind": "vq", "codebook_size": 16}
    toy = toy_tokenizer(quantizer_config=plain)

    trained = toy_tokenizer(quantizer_config=plain | {"decay": 0.5, "revive_below": 0.0})
    cosine = toy_tokenizer(quantizer_config=plain | {"unit_norm": True})

    assert changed(toy, trained) == set()
    assert "decode" in changed(toy, cosine)


def test_fields_of_the_encoder_do_not_touch_decode():
    toy = toy_tokenizer()

    assert changed(toy, toy_tokenizer(encoder_gain=2)) == {"encode"}
    assert changed(toy, toy_tokenizer(decoder_gain=2)) == {"encode", "decode"}


def test_the_dtype_of_computing_changes_encode_only(toy, other):
    other.compute_in(torch.bfloat16)

    assert changed(toy, other) == {"encode"}


def test_codes_made_in_bfloat16_decode_in_float32_and_after_a_move(toy, other):
    other.compute_in(torch.bfloat16)
    other.encoder.project.weight.data = other.encoder.project.weight.data.clone()  # a move

    tokens = other.tokenize([noise_image(8, 8)])

    assert toy.detokenize(tokens)[0].size == (8, 8)


def test_training_a_cast_model_gives_it_a_digest_of_its_own(toy, other):
    other.compute_in(torch.bfloat16)
    with torch.no_grad():
        other.decoder.project.bias[0] += 1

    assert "decode" in changed(toy, other)


def test_the_cache_hashes_once_and_again_after_every_kind_of_change(toy, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "vqtok.models.fingerprint.fingerprint_of",
        lambda model: calls.append(1) or fingerprint_of(model),
    )
    cache = FingerprintCache()

    first = cache.of(toy)
    assert cache.of(toy) == first
    assert len(calls) == 1

    with torch.no_grad():
        toy.decoder.project.weight.mul_(1.01)
    second = cache.of(toy)
    toy.decoder.project.weight.data.mul_(1.01)  # behind the version counter's back
    third = cache.of(toy)

    assert len({first.decode, second.decode, third.decode}) == 3
    assert len(calls) == 3


def test_json_is_one_text_for_one_value():
    assert canonical_json({"b": [1, (2, 3)], "a": None}) == '{"a":null,"b":[1,[2,3]]}'
    assert json.loads(canonical_json({"x": 0.1})) == {"x": 0.1}


def test_saving_and_loading_keep_every_digest(toy, tmp_path):
    toy.save_pretrained(tmp_path)

    assert changed(toy, ToyTokenizer.from_pretrained(tmp_path)) == set()


def test_a_tokenizer_made_in_inference_mode_has_its_fingerprint():
    with torch.inference_mode():
        made = toy_tokenizer()
    assert made.fingerprint.encode


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_codes_stay_decodable_by_whatever_name_a_cast_is_called(cast):
    toy, images = toy_tokenizer(), [noise_image(12, 8), noise_image(8, 8)]
    tokens, decode = toy.tokenize(images), toy.fingerprint.decode

    back = getattr(toy, cast)()

    assert back is toy
    assert toy.fingerprint.decode == decode
    assert len(toy.detokenize(tokens)) == len(images)
    assert toy.float().dtype == torch.float32
