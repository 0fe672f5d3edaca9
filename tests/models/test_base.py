import copy

import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from tests.models.toy_tokenizer import PATCH, ToyConfig, ToyTokenizer, noise_image, toy_tokenizer
from vqtok.errors import (
    CodeRangeError,
    ConfigError,
    FingerprintError,
    InputError,
    ShapeError,
    VqtokError,
)
from vqtok.models.base import Rate, VQTokens

SIZES = [(9, 6), (32, 24), (9, 6), (7, 33), (32, 24), (32, 24)]
RESIDUAL = {"kind": "residual", "codebook_size": 8, "num_codebooks": 3}


@pytest.fixture(scope="module")
def toy() -> ToyTokenizer:
    return toy_tokenizer()


@pytest.fixture
def images():
    return [noise_image(*size, seed=number) for number, size in enumerate(SIZES)]


def test_codes_have_one_axis_for_codebooks_then_the_grid():
    toy = toy_tokenizer(quantizer_config=RESIDUAL)

    codes = toy.encode(torch.rand(2, 3, 9, 14))

    assert codes.shape == (2, 3, 3, 4)
    assert codes.dtype == torch.int64
    assert (toy.num_codebooks, toy.codebook_sizes) == (3, (8, 8, 8))
    assert toy.rate == Rate(bits=9 / PATCH**2, per="pixel")


def test_fewer_codebooks_are_the_first_of_all_and_can_be_decoded():
    toy = toy_tokenizer(quantizer_config=RESIDUAL)
    pixels = torch.rand(1, 3, 8, 8)

    few = toy.encode(pixels, num_codebooks=2)

    assert torch.equal(few, toy.encode(pixels)[:, :2])
    assert toy.decode(few).shape == pixels.shape
    assert toy.tokenize([noise_image(8, 8)], num_codebooks=1)[0].codes.shape == (1, 2, 2)


def test_forward_gives_the_codes_of_encode_and_the_outputs_of_decode(toy):
    pixels = torch.rand(2, 3, 10, 13) * 2 - 1

    out = toy(pixels)

    assert torch.equal(out.codes, toy.encode(pixels))
    assert torch.allclose(out.reconstruction, toy.decode(out.codes)[:, :, :10, :13], atol=1e-6)
    assert out.latents.shape == (2, 3, 4, 6)


def test_the_loss_is_the_sum_of_its_weighted_parts(toy):
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1

    out = toy(pixels)

    error = out.reconstruction - pixels
    assert torch.isclose(out.losses["l1"], error.abs().mean())
    assert torch.isclose(out.losses["mse"], error.square().mean())
    parts = out.losses["l1"] + out.losses["mse"] + out.losses["quantizer"]
    assert torch.isclose(out.loss, parts)
    assert "commitment" in out.losses


def test_the_loss_reaches_encoder_and_decoder():
    toy = toy_tokenizer().train()

    toy(torch.rand(2, 3, 8, 8)).loss.backward()

    assert toy.encoder.project.weight.grad.abs().sum() > 0
    assert toy.decoder.project.weight.grad.abs().sum() > 0


def test_masked_positions_change_no_loss(toy):
    pixels = torch.rand(1, 3, 10, 12) * 2 - 1
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    mask[0, 1, 2] = False
    changed = pixels.clone()
    changed[:, :, 4:8, 8:12] = 0.3

    before, after = toy(pixels, mask), toy(changed, mask)

    assert torch.isclose(before.loss, after.loss)
    assert not torch.isclose(toy(pixels).loss, toy(changed).loss)


def test_a_mask_of_ones_is_no_mask(toy):
    pixels = torch.rand(2, 3, 10, 12) * 2 - 1

    masked = toy(pixels, torch.ones(2, 3, 3, dtype=torch.bool))

    assert torch.isclose(masked.loss, toy(pixels).loss)


def test_hidden_states_come_only_when_asked_for(toy):
    pixels = torch.rand(1, 3, 8, 8)

    assert toy(pixels).hidden_states is None
    assert [h.shape[-1] for h in toy(pixels, output_hidden_states=True).hidden_states] == [6, 48]
    assert not toy.encoder.project._forward_hooks


@pytest.mark.parametrize(
    "pixels", [torch.rand(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_inputs_of_another_form_are_refused(toy, pixels):
    with pytest.raises(ShapeError, match=r"wants float \[B, C, H, W\]"):
        toy.encode(pixels)


def test_decode_refuses_codes_that_the_codebook_lacks(toy):
    with pytest.raises(CodeRangeError, match="0 to 15"):
        toy.decode(torch.full((1, 1, 2, 2), 16))


def test_every_image_keeps_its_own_size_there_and_back(toy, images):
    tokens = toy.tokenize(images)
    back = toy.detokenize(tokens)

    assert [t.codes.shape for t in tokens] == [
        (1, -(-height // PATCH), -(-width // PATCH)) for width, height in SIZES
    ]
    assert [image.size for image in back] == SIZES


def test_codes_do_not_depend_on_company_or_order(toy, images):
    alone = [toy.tokenize([image])[0].codes for image in images]
    together = toy.tokenize(images)
    backwards = toy.tokenize(images[::-1])[::-1]

    for one, two, three in zip(alone, together, backwards, strict=True):
        assert torch.equal(one, two.codes)
        assert torch.equal(one, three.codes)


def test_batches_keep_the_order_and_run_in_one_shape_a_size(toy, images, monkeypatch):
    shapes = []
    encode = ToyTokenizer.encode
    monkeypatch.setattr(
        ToyTokenizer, "encode", lambda self, x, n=None: shapes.append(x.shape) or encode(self, x, n)
    )

    batched = toy.tokenize(images, batch_size=2)

    assert {shape[0] for shape in shapes} == {2}
    assert len(shapes) == 4  # two of 9 x 6, three of 32 x 24, one of 7 x 33
    for one, two in zip(toy.tokenize(images), batched, strict=True):
        assert one.meta == two.meta
        assert (one.codes != two.codes).float().mean() < 0.01


def test_nothing_gives_nothing(toy):
    assert toy.tokenize([]) == []
    assert toy.detokenize([]) == []


def test_tokenizing_leaves_training_mode_and_frozen_parts_as_they_were():
    toy = toy_tokenizer().train()
    toy.decoder.eval()

    toy.detokenize(toy.tokenize([noise_image(8, 8)]))

    assert toy.training
    assert toy.encoder.training
    assert not toy.decoder.project.training


def test_codes_can_be_used_in_training_afterwards(toy):
    codes = toy.tokenize([noise_image(8, 8)])[0].codes
    table = torch.nn.Embedding(16, 3)

    table(codes).sum().backward()

    assert table.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("items", ["photo.jpg", b"bytes", noise_image(4, 4), 3])
def test_one_item_in_place_of_a_list_is_refused(toy, items):
    with pytest.raises(InputError, match=r"wants a list.*tokenize\(\[item\]\)\[0\]"):
        toy.tokenize(items)


def test_a_batch_size_of_zero_is_refused(toy):
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        toy.tokenize([], batch_size=0)
    with pytest.raises(ConfigError, match="whole number or None; got a str"):
        toy.tokenize([], batch_size="2")


@pytest.mark.parametrize("number", [True, 1.0, "1", 0])
def test_a_number_of_codebooks_that_is_none_is_refused(toy, number):
    with pytest.raises(ConfigError, match="num_codebooks must be 1 to 1 here; got"):
        toy.tokenize([noise_image(8, 8)], num_codebooks=number)


def test_codes_of_another_tokenizer_are_refused(toy):
    tokens = toy.tokenize([noise_image(8, 8)])
    other = copy.deepcopy(toy)
    with torch.no_grad():
        other.decoder.project.bias[0] += 0.5

    with pytest.raises(
        FingerprintError, match=f"made by the tokenizer {tokens[0].fingerprint[:16]}"
    ):
        other.detokenize(tokens)
    with pytest.raises(FingerprintError, match="unknown"):
        toy.detokenize([VQTokens(tokens[0].codes, tokens[0].meta)])
    with pytest.raises(FingerprintError, match="unknown"):
        toy.detokenize([VQTokens(tokens[0].codes, tokens[0].meta, None)])


def test_detokenize_looks_at_the_range_of_codes(toy):
    tokens = toy.tokenize([noise_image(8, 8)])[0]

    with pytest.raises(CodeRangeError):
        toy.detokenize([VQTokens(tokens.codes + 16, tokens.meta, tokens.fingerprint)])


def test_detokenize_refuses_what_are_no_tokens(toy):
    with pytest.raises(InputError, match=r"item 0 is a Tensor.*decode\(\)"):
        toy.detokenize([torch.zeros(1, 2, 2, dtype=torch.int64)])


def test_a_row_of_a_dataset_decodes_like_its_tokens(toy):
    image = noise_image(10, 7)
    tokens = toy.tokenize([image])[0]
    row = {
        "status": "ok",
        "codes": tokens.codes.flatten().tolist(),
        "shape": list(tokens.codes.shape),
        "orig_h": 7,
        "orig_w": 10,
        "meta": None,
        "codes_fp": tokens.fingerprint[:16],
    }

    (from_row,), (from_tokens,) = toy.detokenize([row]), toy.detokenize([tokens])

    assert from_row.size == (10, 7)
    assert from_row.tobytes() == from_tokens.tobytes()


def test_a_row_without_codes_says_why():
    with pytest.raises(InputError, match="its status: too_large"):
        VQTokens.from_row({"status": "too_large", "codes": None, "shape": None, "codes_fp": "a"})


@pytest.mark.parametrize(
    "codes", [[[1]], torch.zeros(1, 2), torch.zeros(3, dtype=torch.int64)], ids=str
)
def test_tokens_hold_int64_codes_with_a_codebook_axis(codes):
    with pytest.raises(ShapeError, match="VQTokens wants codes"):
        VQTokens(codes)


def test_a_model_without_parameters_has_a_device_and_a_dtype():
    toy = toy_tokenizer()
    toy.encoder, toy.decoder = torch.nn.Identity(), torch.nn.Identity()

    assert not list(toy.parameters())
    assert toy.device == torch.device("cpu")
    assert toy.dtype == torch.float32


def test_a_half_precision_model_quantizes_in_float32():
    toy = toy_tokenizer().compute_in(torch.bfloat16)

    codes = toy.encode(torch.rand(1, 3, 8, 8))

    assert toy.dtype == torch.bfloat16
    assert toy.quantizer.codebook.codes.dtype == torch.float32
    assert toy.decode(codes).dtype == torch.bfloat16
    assert toy.detokenize(toy.tokenize([noise_image(8, 8)]))[0].size == (8, 8)


def test_pushing_is_refused_with_the_way_to_do_it(toy, tmp_path):
    with pytest.raises(VqtokError, match="hf upload"):
        toy.push_to_hub("me/codes")
    with pytest.raises(VqtokError, match="hf upload"):
        toy.save_pretrained(tmp_path, push_to_hub=True)
    assert list(tmp_path.iterdir()) == []


def test_saving_writes_no_card(toy, tmp_path):
    toy.save_pretrained(tmp_path)

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors", "canary.json"}


def test_a_frozen_codebook_is_still_frozen_after_loading(tmp_path):
    learned = {"kind": "vq", "codebook_size": 16, "learning": "gradient"}
    toy = toy_tokenizer(quantizer_config=learned)
    toy.quantizer.freeze()
    toy.save_pretrained(tmp_path)

    loaded = ToyTokenizer.from_pretrained(tmp_path)

    assert loaded.quantizer.codebook.is_frozen
    assert not loaded.quantizer.codebook.codes.requires_grad
    assert loaded.encoder.project.weight.requires_grad


def test_a_missing_tensor_is_started_and_the_loaded_ones_stay(toy, tmp_path):
    from safetensors.torch import load_file, save_file

    toy.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["quantizer.codebook.code_counts"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = ToyTokenizer.from_pretrained(tmp_path)

    assert torch.equal(loaded.quantizer.codebook.codes, toy.quantizer.codebook.codes)
    assert torch.equal(loaded.quantizer.codebook.code_counts, torch.ones(16))


def test_a_config_survives_the_file(tmp_path):
    AutoConfig.register("vqtok_toy", ToyConfig, exist_ok=True)
    config = ToyConfig(latent_dim=5, quantizer_config={"kind": "fsq", "levels": [3, 4]})
    config.save_pretrained(tmp_path)

    loaded = AutoConfig.from_pretrained(tmp_path)

    assert loaded.quantizer_config == config.quantizer_config
    assert loaded.latent_dim == 5


def test_a_prepared_item_gives_the_codes_of_the_raw_one(toy, images):
    prepared = [toy.prepare(image) for image in images]

    for one, two in zip(toy.tokenize(images), toy.tokenize(prepared), strict=True):
        assert torch.equal(one.codes, two.codes)
        assert one.meta == two.meta


def test_small_images_go_together_by_default_and_large_ones_alone(toy):
    seen = []
    sizes = [(8, 8)] * 3 + [(160, 160), (64, 64), (64, 64)]
    pictures = [Image.new("RGB", size, (40 * i, 0, 90)) for i, size in enumerate(sizes)]
    toy.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))

    tokens = toy.tokenize(pictures, batch_size=None)

    # one shape a size, filled up with copies: 16,384 pixels; a few left over go alone
    assert sorted(tuple(shape) for shape in seen) == [
        *[(1, 3, 8, 8)] * 3,
        (1, 3, 160, 160),
        (4, 3, 64, 64),
    ]
    for one, two in zip(toy.tokenize(pictures), tokens, strict=True):
        assert torch.equal(one.codes, two.codes)
