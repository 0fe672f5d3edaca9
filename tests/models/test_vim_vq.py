"""VIM-VQ as a tokenizer: any size, any company, any kind of quantizer, and back."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from vqtok.errors import ConfigError, FingerprintError, FormatError, ShapeError
from vqtok.models.auto import AutoVQTokenizer
from vqtok.models.vim_vq.configuration_vim_vq import PRESETS, VimVQConfig
from vqtok.models.vim_vq.modeling_vim_vq import VimVQModel

KINDS = {
    "vq": {"kind": "vq", "codebook_size": 64},
    "unit-norm": {"kind": "vq", "codebook_size": 64, "codebook_dim": 4, "unit_norm": True},
    "residual": {"kind": "residual", "codebook_size": 32, "num_codebooks": 3},
    "fsq": {"kind": "fsq", "levels": [8, 5, 5]},
    "spatial": {"kind": "spatial", "codebook_size": 64, "num_regions": 4},
}
SIZES = [(97, 131), (480, 640), (1000, 33), (1, 1)]  # height, width


def nano(kind: str = "vq", **overrides) -> VimVQModel:
    config = VimVQConfig.preset("nano", quantizer_config=KINDS[kind], **overrides)
    return VimVQModel(config).eval()


@torch.enable_grad()
def trained(kind: str = "vq") -> VimVQModel:
    """After a few real steps: started codes, and blocks that are no longer the identity."""
    model = nano(kind).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.rand(4, 3, 64, 64) * 2 - 1).loss.backward()
        optimizer.step()
    return model.eval()


def random_photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.randint(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_any_size_comes_back_at_its_own_size(kind, size):
    model, photo = nano(kind), random_photo(*size)

    (tokens,) = model.tokenize([photo])
    (back,) = model.detokenize([tokens])

    grid = tuple(-(-side // 8) for side in size)
    assert tokens.codes.shape == (model.num_codebooks, *grid)
    assert tokens.codes.dtype == torch.int64
    for codes, size_of_book in zip(tokens.codes, model.codebook_sizes, strict=True):
        assert codes.min() >= 0
        assert codes.max() < size_of_book
    assert back.size == photo.size
    assert back.mode == "RGB"


def test_codes_do_not_depend_on_company_or_order():
    model = trained()
    photos = [random_photo(40, 56), random_photo(64, 64), random_photo(40, 56)]

    together = model.tokenize(photos)
    reverse = model.tokenize(photos[::-1])[::-1]
    alone = [model.tokenize([photo])[0] for photo in photos]

    for a, b, c in zip(together, reverse, alone, strict=True):
        assert torch.equal(a.codes, b.codes)
        assert torch.equal(a.codes, c.codes)


@torch.no_grad()
def test_batches_of_1_3_and_16_agree_but_for_near_ties():
    model = trained()
    pixels = torch.rand(16, 3, 64, 64) * 2 - 1

    whole = model.encode(pixels)
    for size in (1, 3):
        parts = torch.cat([model.encode(part) for part in pixels.split(size)])
        differs = (parts != whole)[:, 0]
        latents = model.encoder(pixels)[differs]
        regret = (latents - model.quantizer.decode(parts[:, 0, ..., None])[differs]).norm(dim=-1)
        regret -= (latents - model.quantizer.decode(whole[:, 0, ..., None])[differs]).norm(dim=-1)
        assert differs.float().mean() < 1e-4
        assert not differs.any() or regret.abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_codes_survive_saving_and_loading(kind, tmp_path):
    model, pixels = trained(kind), torch.rand(2, 3, 40, 72) * 2 - 1
    codes = model.encode(pixels)

    model.save_pretrained(tmp_path)
    loaded = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)

    assert torch.equal(loaded.encode(pixels), codes)
    assert torch.equal(loaded.decode(codes), model.decode(codes))
    assert loaded.fingerprint == model.fingerprint


@torch.no_grad()
def test_bfloat16_flips_few_codes_and_none_after_coming_back():
    model, pixels = trained(), torch.rand(8, 3, 64, 64) * 2 - 1
    codes, books = model.encode(pixels), copy.deepcopy(model.quantizer.state_dict())

    half = copy.deepcopy(model).to(torch.bfloat16)
    flips = (half.encode(pixels) != codes).float().mean()
    back = (half.to(torch.float32).encode(pixels) != codes).float().mean()

    # noise images and 64 codes are the worst case: photos flip less (the model card has numbers)
    assert flips < 0.10
    assert back < 0.05  # weights keep bfloat16's rounding, codebooks keep every bit
    for name, value in half.quantizer.state_dict().items():
        assert torch.equal(value, books[name])


def test_every_preset_builds_and_its_decoder_is_at_least_its_encoder():
    with torch.device("meta"):
        for name in PRESETS:
            model = VimVQModel(VimVQConfig.preset(name))
            parts = (model.encoder.blocks, model.decoder.blocks)
            encoder, decoder = (sum(p.numel() for p in part.parameters()) for part in parts)
            assert decoder >= encoder


def test_a_fresh_model_is_a_cosine_transform_of_patches():
    model = nano(latent_dim=96)
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64).contiguous()

    with torch.no_grad():
        back = model.decoder(model.encoder(ramp))

    assert (back - ramp).abs().max() < 0.25


@pytest.mark.parametrize("patch_pixels", [8, 16])
def test_rate_is_bits_per_pixel(patch_pixels):
    patch, spatial = (nano(kind, patch_pixels=patch_pixels, width=96) for kind in ("vq", "spatial"))

    assert patch.rate.per == "pixel"
    assert patch.rate.bits == pytest.approx(6 / patch_pixels**2)
    # sixteen regions share 64 codes: a code costs 2 bits where its place is known
    assert spatial.rate.bits == pytest.approx(2 / patch_pixels**2)


def test_fewer_codebooks_are_the_first_ones():
    model, pixels = nano("residual"), torch.rand(1, 3, 32, 32) * 2 - 1

    assert torch.equal(model.encode(pixels, num_codebooks=2), model.encode(pixels)[:, :2])
    assert model.decode(model.encode(pixels, num_codebooks=2)).shape == pixels.shape
    with pytest.raises(ConfigError, match="num_codebooks"):
        nano("vq").encode(pixels, num_codebooks=2)


def test_forward_trains_every_part_and_says_what_it_costs():
    model = nano().train()
    out = model(torch.rand(2, 3, 50, 41) * 2 - 1, output_hidden_states=True)
    out.loss.backward()

    assert out.reconstruction.shape == (2, 3, 50, 41)
    assert out.codes.shape == (2, 1, 7, 6)
    assert len(out.hidden_states) == 4
    parts = out.losses["l1"] + out.losses["mse"] + out.losses["quantizer"]
    assert torch.allclose(out.loss, parts)
    # what starts at zero waits one step for its gradient: the layers behind it
    waiting = {"encoder.stem", "decoder.refiner"}
    for name, parameter in model.named_parameters():
        if not any(name.startswith(w) for w in waiting):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_tokens_of_another_tokenizer_are_refused():
    tokens = nano().tokenize([random_photo(16, 16)])

    with pytest.raises(FingerprintError, match="made by"):
        trained().detokenize(tokens)


def test_autocast_around_tokenize_changes_no_code():
    model, photos = trained(), [random_photo(64, 64)]

    with torch.autocast("cpu", torch.bfloat16):
        inside = model.tokenize(photos)

    assert torch.equal(inside[0].codes, model.tokenize(photos)[0].codes)


def test_tokens_made_before_a_cast_can_be_decoded_after_it():
    model = trained()
    tokens = model.tokenize([random_photo(16, 16)])

    assert model.to(torch.bfloat16).detokenize(tokens)[0].size == (16, 16)
    assert model.to(torch.float32).detokenize(tokens)[0].size == (16, 16)


def test_codes_without_meta_become_a_picture_of_whole_patches():
    model = nano()
    (tokens,) = model.tokenize([random_photo(13, 22)])

    (whole,) = model.detokenize([dataclasses.replace(tokens, meta={})])
    (own,) = model.detokenize([tokens])

    assert whole.size == tuple(n * model.hop for n in tokens.codes.shape[:0:-1])
    assert whole.crop((0, 0, *own.size)).tobytes() == own.tobytes()


@pytest.mark.parametrize("meta", [{"height": 16}, {"height": 17, "width": 16}])
def test_meta_that_cannot_belong_to_the_codes_is_refused(meta):
    model = nano()
    (tokens,) = model.tokenize([random_photo(16, 16)])

    with pytest.raises(FormatError, match="height and width"):
        model.detokenize([dataclasses.replace(tokens, meta=meta)])


def test_wrong_tensors_and_configurations_are_refused():
    with pytest.raises(ShapeError, match=r"\[B, C, H, W\]"):
        nano().encode(torch.zeros(3, 8, 8))
    with pytest.raises(ConfigError, match="presets"):
        VimVQConfig.preset("huge")
    for wrong in ({"patch_pixels": 12}, {"width": 100}, {"decoder_depth": 1}, {"latent_dim": 999}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            VimVQConfig.preset("nano", **wrong)
    with pytest.raises(ConfigError, match="widht"):
        VimVQConfig.preset("nano", widht=96)
    with pytest.raises(ShapeError, match="3 colours"):
        nano().encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ShapeError, match="B, C, H, W"):
        nano().encode(torch.zeros(1, 3, 0, 8))
    with pytest.raises(ShapeError, match="empty"):
        nano().decode(torch.zeros(1, 1, 0, 8, dtype=torch.int64))
    with pytest.raises(ConfigError, match="kind"):
        VimVQConfig.preset("nano", quantizer_config={"codebook_size": 8})
