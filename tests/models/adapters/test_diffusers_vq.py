"""diffusers' VQModel: latents natively, ids here, the same pictures from both."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vqtok.errors import ConfigError, LoadError
from vqtok.models.adapters.diffusers_vq import DiffusersVQTokenizer
from vqtok.models.auto import AutoVQTokenizer

diffusers = pytest.importorskip("diffusers")

VARIANTS = {
    "group": {},
    "narrow": {"vq_embed_dim": 3},
    "spatial": {"norm_type": "spatial"},
    "lookup": {"lookup_from_codebook": True, "mid_block_add_attention": False},
}


def vq_model(**options):
    torch.manual_seed(0)
    model = diffusers.VQModel(
        block_out_channels=(32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        num_vq_embeddings=64,
        norm_num_groups=8,
        **options,
    ).eval()
    with torch.no_grad():
        latents = model.encode(torch.rand(1, 3, 64, 64) * 2 - 1).latents
        found = latents[0].flatten(1).T
        model.quantize.embedding.weight.copy_(found[torch.arange(64) * 3 % len(found)])
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    vq_model(**VARIANTS[request.param]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def native(folder):
    return diffusers.VQModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tok(folder):
    return AutoVQTokenizer.from_pretrained(folder, device="cpu")


def native_ids(native, inputs):
    latents = native.encode(inputs).latents
    return native.quantize(latents)[2][2].view(len(inputs), 1, *latents.shape[2:])


def test_it_says_what_it_is(tok):
    assert type(tok) is DiffusersVQTokenizer
    assert (tok.modality, tok.num_codebooks, tok.codebook_sizes, tok.hop) == ("image", 1, (64,), 4)
    assert (tok.rate.bits, tok.rate.per) == (6 / 16, "pixel")


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (8, 20)])
def test_codes_are_the_ids_of_the_native_quantizer(tok, native, size):
    inputs = torch.rand(2, 3, *size) * 2 - 1

    codes = tok.encode(inputs)

    assert codes.shape == (2, 1, size[0] // 4, size[1] // 4)
    assert len(codes.unique()) > 3
    assert torch.equal(codes, native_ids(native, inputs))


@torch.no_grad()
def test_outputs_are_the_native_ones(tok, native):
    inputs = torch.rand(2, 3, 32, 24) * 2 - 1
    codes = native_ids(native, inputs)
    shape = (2, 8, 6, native.quantize.vq_embed_dim)

    decoded = tok.decode(codes)

    if native.config.lookup_from_codebook:
        expected = native.decode(codes.flatten(), force_not_quantize=True, shape=shape).sample
    else:
        quantized = native.quantize.get_codebook_entry(codes.flatten(), shape)
        expected = native.decode(quantized, force_not_quantize=True).sample
    assert torch.equal(decoded, expected)
    # the native forward goes through latent + (code - latent), which rounds
    torch.testing.assert_close(decoded, native(inputs).sample, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (45, 30)])
def test_tokens_are_those_of_the_native_image_processor(tok, native, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    processor = diffusers.image_processor.VaeImageProcessor(vae_scale_factor=4)

    (tokens,) = tok.tokenize([image])
    (back,) = tok.detokenize([tokens])

    inputs = processor.preprocess(image)
    assert torch.equal(tokens.codes, native_ids(native, inputs)[0])
    assert tokens.meta == {"height": size[1], "width": size[0]}
    assert back.size == (size[0] // 4 * 4, size[1] // 4 * 4)
    (expected,) = processor.postprocess(tok.decode(tokens.codes[None]), output_type="pil")
    assert np.abs(np.asarray(back).astype(int) - np.asarray(expected)).max() <= 1


def test_saved_and_loaded_it_is_the_same(tok, tmp_path):
    tok.save_pretrained(tmp_path)

    again = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)

    assert again.fingerprint == tok.fingerprint
    assert type(diffusers.VQModel.from_pretrained(tmp_path)) is type(tok.native)


def test_in_a_pipeline_it_lies_in_a_subfolder(folder):
    tok = AutoVQTokenizer.from_pretrained(folder.parent, subfolder=folder.name, device="cpu")

    assert type(tok) is DiffusersVQTokenizer


def test_a_fresh_one_comes_around_a_native_model():
    tok = DiffusersVQTokenizer.around(vq_model()).eval()

    assert tok.encode(tok.canary_inputs()).shape == (2, 1, 4, 4)


def test_pickles_and_missing_tensors_are_refused(tmp_path):
    model = vq_model()
    model.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    model.save_pretrained(tmp_path / "short")
    from safetensors.torch import load_file, save_file

    weights = tmp_path / "short" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    del state["quant_conv.bias"]
    save_file(state, weights)

    with pytest.raises(LoadError, match=r"only safetensors are read.*which could run code"):
        AutoVQTokenizer.from_pretrained(tmp_path / "pickle", device="cpu")
    with pytest.raises(LoadError, match=r"missing_keys: quant_conv\.bias"):
        AutoVQTokenizer.from_pretrained(tmp_path / "short", device="cpu")


def test_without_the_package_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)

    with pytest.raises(ConfigError, match=r"pip install 'vqtok\[diffusers\]'"):
        AutoVQTokenizer.from_pretrained(folder, device="cpu")
