"""Chameleon, Emu3 and Janus: alone and inside their multimodal models, against the native calls."""

import functools

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor

from tests.models.adapters import natives
from vqtok.errors import CodeRangeError, InputError, LoadError, ShapeError, VqtokError
from vqtok.models.auto import AutoVQTokenizer

FAMILIES = ("chameleon", "emu3", "janus")
SIDE = natives.SIDE


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    return Image.fromarray(noise.astype(np.uint8)).resize((width, height))


def image_processor(family: str):
    if family == "chameleon":
        size = {"height": SIDE, "width": SIDE}
        return transformers.ChameleonImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if family == "janus":
        return transformers.JanusImageProcessor(size={"height": SIDE, "width": SIDE}, **half)
    return transformers.Emu3ImageProcessor(
        min_pixels=24 * 24, max_pixels=64 * 64, spatial_factor=4, **half
    )


class Pair:
    """A tokenizer, and the native VQ model and image processor from the same folder."""

    def __init__(self, family, kind, folder):
        model = getattr(natives, f"{family}_vq" if kind == "alone" else family)()
        natives.save(model, folder, image_processor(family))
        self.family, self.kind, self.folder = family, kind, folder
        self.tok = AutoVQTokenizer.from_pretrained(folder, device="cpu")
        loaded = type(model).from_pretrained(folder).eval()
        self.native = loaded if kind == "alone" else loaded.model.vqmodel
        self.processor = AutoImageProcessor.from_pretrained(folder)

    def codes(self, inputs):
        """[B, 1, h, w] by the native call."""
        height, width = (size // 4 for size in inputs.shape[2:])
        sizes = {"image_sizes": [inputs.shape[2:]] * len(inputs)} if self.family == "emu3" else {}
        tokens = self.native.encode(inputs, **sizes).image_tokens
        tokens = torch.stack(tokens) if isinstance(tokens, list) else tokens
        return tokens.reshape(len(inputs), 1, height, width)

    def decoded(self, codes):
        return self.native.decode(codes[:, 0] if self.family == "emu3" else codes.flatten(1))


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory):
    return functools.cache(lambda *kind: Pair(*kind, tmp_path_factory.mktemp("-".join(kind))))


@pytest.fixture(
    params=[(family, kind) for family in FAMILIES for kind in ("alone", "multimodal")],
    ids="-".join,
)
def pair(request, pair_of):
    return pair_of(*request.param)


def test_it_says_what_it_is(pair):
    tok = pair.tok
    assert (tok.modality, tok.num_codebooks, tok.codebook_sizes) == ("image", 1, (64,))
    assert (tok.rate.bits, tok.rate.per, tok.hop) == (6 / 16, "pixel", 4)
    assert tok.config.model_type == f"{pair.family}_vqgan"
    assert tok.can_decode == (pair.family != "chameleon")


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (8, 20), (36, 24), (33, 30)])
def test_codes_are_the_native_ones(pair, size):
    inputs = torch.rand(2, 3, *size) * 2 - 1

    codes = pair.tok.encode(inputs)

    assert codes.dtype == torch.int64
    assert codes.shape == (2, 1, size[0] // 4, size[1] // 4)
    assert len(codes.unique()) > 3
    assert torch.equal(codes, pair.codes(inputs))
    assert torch.equal(codes, pair.tok.encode(inputs, num_codebooks=1))


@torch.no_grad()
@pytest.mark.parametrize("family", ["emu3", "janus"])
@pytest.mark.parametrize("kind", ["alone", "multimodal"])
def test_outputs_are_the_native_ones(family, kind, pair_of):
    pair = pair_of(family, kind)
    codes = torch.randint(0, 64, (2, 1, 8, 8))

    decoded = pair.tok.decode(codes)

    assert decoded.shape == (2, 3, 32, 32)
    assert torch.equal(decoded, pair.decoded(codes))
    out = pair.tok(torch.rand(1, 3, 32, 32))
    assert torch.equal(out.reconstruction, pair.decoded(out.codes))
    with pytest.raises(CodeRangeError, match="codebook 0 holds codes 0 to 63"):
        pair.tok.decode(codes + 1 + codes.amax())


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (50, 40), (31, 70)])
def test_tokens_are_those_of_the_native_image_processor(pair, size):
    image = picture(*size)

    (tokens,) = pair.tok.tokenize([image])

    inputs = pair.processor(images=image, return_tensors="pt")["pixel_values"]
    assert torch.equal(tokens.codes, pair.codes(inputs)[0])
    assert tokens.meta == {"height": size[1], "width": size[0]}
    if pair.tok.can_decode:
        (back,) = pair.tok.detokenize([tokens])
        decoded = (pair.decoded(tokens.codes[None])[0] + 1) * 127.5
        expected = decoded.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        difference = np.asarray(back).astype(int) - expected
        assert back.size == (inputs.shape[3], inputs.shape[2])
        assert np.abs(difference).max() <= 1
        assert (difference == 0).mean() > 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_and_writing_gives_the_picture_back(family, pair_of):
    processor = pair_of(family, "alone").tok.processor
    image = picture(SIDE, SIDE)

    tensor, meta = processor.read(image)

    if family != "chameleon":  # it adds rounding of its own: 0.0078 for 1 / 127.5
        assert processor.write(tensor, meta).tobytes() == image.tobytes()
    assert np.abs(np.asarray(processor.write(tensor)).astype(int) - np.asarray(image)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_part_of_a_multimodal_model_is_the_same_tokenizer_saved_alone(
    family, pair_of, tmp_path
):
    whole = pair_of(family, "multimodal").tok
    whole.save_pretrained(tmp_path)

    alone = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)

    assert alone.fingerprint == whole.fingerprint
    assert type(whole.native).from_pretrained(tmp_path).config.model_type == f"{family}_vqgan"
    assert alone.fingerprint.codebook != pair_of(family, "alone").tok.fingerprint.codebook


@pytest.mark.parametrize("kind", ["alone", "multimodal"])
def test_chameleon_says_that_it_cannot_decode(kind, pair_of):
    tok = pair_of("chameleon", kind).tok
    (tokens,) = tok.tokenize([picture(SIDE, SIDE)])

    with pytest.raises(VqtokError, match=r"Chameleon cannot decode: .* has no decoder"):
        tok.decode(tokens.codes[None])
    with pytest.raises(VqtokError, match="Chameleon cannot decode"):
        tok.detokenize([tokens])
    out = tok(torch.rand(1, 3, 32, 32))
    assert out.reconstruction is None
    assert out.codes.shape == (1, 1, 8, 8)
    assert tok.decoder is None


def test_janus_decodes_its_own_grid_only(pair_of):
    tok = pair_of("janus", "alone").tok

    with pytest.raises(ShapeError, match="a grid of 8 x 8 codes only"):
        tok.decode(torch.zeros(1, 1, 4, 8, dtype=torch.int64))


def test_janus_has_the_grid_of_its_vision_encoder_whatever_its_file_says(pair_of, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(pair_of("janus", "multimodal").folder, tmp_path / "janus")
    config = json.loads((folder / "config.json").read_text())
    del config["vq_config"]["num_patches"]
    (folder / "config.json").write_text(json.dumps(config))

    tok = AutoVQTokenizer.from_pretrained(folder, device="cpu")

    native = transformers.JanusForConditionalGeneration.from_pretrained(folder).model.vqmodel
    assert tok.config.num_patches == native.config.num_patches == 8
    config["vision_config"]["patch_size"] = 0
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="square image_size and patch_size"):
        AutoVQTokenizer.from_pretrained(folder, device="cpu")


def test_what_is_no_picture_is_refused(pair):
    with pytest.raises(InputError, match="cannot be read as an image"):
        pair.tok.tokenize([b"no picture"])
    with pytest.raises(ShapeError, match="of at least 4 x 4 pixels"):
        pair.tok.encode(torch.zeros(1, 3, 3, 8))
    with pytest.raises(ShapeError, match=r"wants float \[B, C, H, W\]"):
        pair.tok.encode(torch.zeros(3, 8, 8))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_tokenizer_comes_from_a_config(family):
    config = getattr(natives, f"{family}_vq_config")()

    tok = AutoVQTokenizer.from_config(config).eval()

    assert tok.codebook_sizes == (64,)
    assert tok.encode(tok.canary_inputs()).shape[1] == 1
