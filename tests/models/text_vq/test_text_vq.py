"""Texts to codes and back without a loss, and what a text tokenizer promises beside that."""

import copy
import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.models.text_vq.small import CODE, CORPUS, ENGLISH, bytes_of, started
from vqtok.models.base import Rate
from vqtok.models.text_vq import TextVQConfig, TextVQModel, modeling_text_vq
from vqtok.models.text_vq.text_processing_text_vq import PAD

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


@pytest.fixture(scope="module")
def model() -> TextVQModel:
    return started()


@pytest.fixture(scope="module")
def untrained() -> TextVQModel:
    """Random codes: nearly every byte is wrong."""
    return TextVQModel(TextVQConfig.preset("nano")).eval()


# Nothing is lost.


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY_TEXT, max_size=4), st.integers(1, 3))
@example(
    ["", "a", "\0" * 9, "\ud800", "\udfff\ud83d\ude00", "😀👩‍👩‍👧", "a\u0301", "\r\n\x7f\x1b"], 8
)
def test_any_texts_come_back(model, texts, batch_size):
    assert model.detokenize(model.tokenize(texts, batch_size)) == texts


@settings(max_examples=50, deadline=None)
@given(ANY_TEXT)
def test_any_text_comes_back_from_a_tokenizer_that_knows_nothing(untrained, text):
    tokens = untrained.tokenize([text])

    assert untrained.detokenize(tokens) == [text]
    assert untrained.bits_of(tokens[0]) <= (6 + 8) * len(text.encode("utf-8", "replace")) + 400


@pytest.mark.parametrize("letter", ["a", "😀"])
def test_ten_megabytes_of_one_character_come_back(model, letter):
    text = letter * (10_000_000 // len(letter.encode("utf-8", "surrogatepass")))

    (tokens,) = model.tokenize([text])
    (back,) = model.detokenize([tokens])

    assert back == text
    assert tokens.codes.shape == (2, -(-len(text.encode("utf-8", "surrogatepass")) // 4))


def test_a_text_longer_than_a_piece_has_the_codes_of_its_pieces(model, monkeypatch):
    text = CORPUS * 2 + "é"
    (whole,) = model.tokenize([text])

    monkeypatch.setattr(modeling_text_vq, "PIECE_PATCHES", 7)
    (pieces,) = model.tokenize([text])

    assert torch.equal(pieces.codes, whole.codes)
    assert pieces.meta == whole.meta
    assert model.detokenize([pieces]) == [text]


def test_random_characters_cost_little_more_than_their_bytes_and_codes(model):
    rng = random.Random(0)
    text = "".join(chr(rng.randrange(0xE000, 0x110000)) for _ in range(2000))

    (tokens,) = model.tokenize([text])

    assert model.detokenize([tokens]) == [text]
    assert model.bits_of(tokens) <= (model.rate.bits + 8.1) * 8000


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_fewer_codebooks_are_exact_too(model, num_codebooks):
    tokens = model.tokenize([CODE], num_codebooks=num_codebooks)

    assert tokens[0].codes.shape[0] == num_codebooks
    assert model.detokenize(tokens) == [CODE]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_precision_of_the_encoder_is_exact_and_decodable_by_float32(model, dtype):
    half = copy.deepcopy(model).to(dtype)

    tokens = half.tokenize([CODE, ENGLISH])

    assert half.dtype == dtype
    assert half.detokenize(tokens) == model.detokenize(tokens) == [CODE, ENGLISH]


def test_a_byte_that_wins_by_little_is_escaped(model, monkeypatch):
    (sure,) = model.tokenize([ENGLISH])
    monkeypatch.setattr(modeling_text_vq, "LEAST_MARGIN", 1e9)
    (unsure,) = model.tokenize([ENGLISH])

    assert "escapes" not in sure.meta
    assert unsure.meta["escapes"]
    assert model.detokenize([unsure]) == [ENGLISH]


# What a start on text gives.


def test_codebooks_started_on_a_text_know_all_of_it():
    model = started()
    (tokens,) = model.tokenize([CORPUS])

    assert set(tokens.meta) == {"bytes", "crc32"}
    assert torch.equal(
        model.decode(tokens.codes[None])[0, : tokens.meta["bytes"]], bytes_of(CORPUS)[0]
    )
    assert model.bits_of(tokens) == pytest.approx(18 * tokens.codes.shape[1] + 64)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_codebooks": 4},
        {"num_codebooks": 3},
        {"num_codebooks": 1},
        {"num_codebooks": 5},
        {"patch_bytes": 1, "num_codebooks": 1},
        {"patch_bytes": 3, "latent_dim": 6},
        {"latent_dim": 16},
        {"patch_bytes": 7, "latent_dim": 14},
        {"encoder_depth": 0, "decoder_depth": 0},
    ],
)
def test_a_model_of_any_form_starts_and_is_exact(fields):
    model = started(**fields)

    assert model.detokenize(model.tokenize([CORPUS, "é"])) == [CORPUS, "é"]
    assert all(book.is_initialized for book in model.quantizer.codebooks)


def test_starting_twice_gives_the_same_and_spans_stay_as_they_are():
    first, second = started(), started()

    first.train()(bytes_of(ENGLISH))

    assert first.fingerprint.codebook == second.fingerprint.codebook
    assert all(book.is_frozen for book in first.quantizer.codebooks)


def test_other_quantizers_start_by_k_means():
    config = TextVQConfig.preset("nano", quantizer_config={"kind": "vq", "codebook_size": 64})
    model = TextVQModel(config).eval()

    model.start_codebooks(bytes_of(CORPUS))

    assert model.quantizer.learned_codebooks()[0].is_initialized
    assert model.detokenize(model.tokenize([CORPUS])) == [CORPUS]


# Tensors.


def test_codes_have_one_position_for_four_bytes(model):
    codes = model.encode(bytes_of("abcde"))

    assert codes.shape == (1, 2, 2)
    assert codes.dtype == torch.int64
    assert model.decode(codes).shape == (1, 8)
    assert model.logits(codes).shape == (1, 8, 256)
    assert (model.rate, model.hop) == (Rate(bits=18 / 4, per="byte"), 4)


def test_padding_changes_no_code(model):
    texts = ["a", "hello", ENGLISH, CODE]
    longest = max(bytes_of(text).shape[1] for text in texts) + 5
    batch = torch.full((len(texts), longest), PAD)
    for row, text in zip(batch, texts, strict=True):
        row[: bytes_of(text).shape[1]] = bytes_of(text)

    together = model.encode(batch)

    for codes, text in zip(together, texts, strict=True):
        alone = model.encode(bytes_of(text))[0]
        assert torch.equal(codes[:, : alone.shape[1]], alone)


def test_any_cut_at_a_patch_gives_the_codes_of_the_whole(model):
    whole = model.encode(bytes_of(CORPUS))

    for cut in (4, 64, 100):
        first, rest = bytes_of(CORPUS)[:, :cut], bytes_of(CORPUS)[:, cut:]
        assert torch.equal(torch.cat([model.encode(first), model.encode(rest)], 2), whole)


def test_tokenize_gives_the_codes_of_encode_in_any_company(model):
    texts = [ENGLISH, "", CODE, "é", ENGLISH[:7]]
    alone = model.tokenize(texts)

    for text, tokens in zip(texts, alone, strict=True):
        assert torch.equal(tokens.codes, model.encode(bytes_of(text))[0])
    for batch_size in (2, 5, 64):
        together = model.tokenize(texts, batch_size)
        assert all(torch.equal(a.codes, b.codes) for a, b in zip(alone, together, strict=True))
        assert [t.meta for t in together] == [t.meta for t in alone]


def test_forward_gives_codes_logits_and_losses(model):
    values = bytes_of(CODE)

    out = model(values, output_hidden_states=True)

    assert torch.equal(out.codes, model.encode(values))
    assert out.reconstruction.shape == (*values.shape, 256)
    torch.testing.assert_close(out.reconstruction, model.logits(out.codes)[:, : values.shape[1]])
    expected = torch.nn.functional.cross_entropy(out.reconstruction[0], values[0])
    torch.testing.assert_close(out.losses["bytes"], expected)
    torch.testing.assert_close(out.loss, out.losses["bytes"] + out.losses["quantizer"])
    assert [tuple(h.shape[:2]) for h in out.hidden_states] == [tuple(out.latents.shape[:2])] * 2
    assert len(model(values, return_dict=False)) == 5


def test_padding_and_masked_patches_change_no_loss(model):
    values = bytes_of(CODE)[:, :40]
    longer = torch.cat([values, torch.full((1, 9), PAD)], 1)
    other = torch.cat([values, bytes_of(ENGLISH)[:, :8]], 1)
    mask = torch.arange(12)[None] < 10

    loss = model(values).loss

    torch.testing.assert_close(model(longer).loss, loss)
    torch.testing.assert_close(model(other, mask).loss, loss)


def test_the_loss_reaches_encoder_and_decoder():
    model = started(codebook_size=16).train()

    model(bytes_of(CODE)).loss.backward()

    for weight in (model.encoder.embedding.weight, model.decoder.to_places.weight):
        assert weight.grad.abs().sum() > 0
