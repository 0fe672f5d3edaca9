"""Numerics profiles: what computes in bfloat16, what never does, and what codes then mean."""

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.adapters import natives
from tests.models.rvq_codec.codecs import lively
from tests.models.test_embedding_vq import clustered, fresh, with_networks
from tests.models.test_vim_vq import KINDS, trained
from tests.models.text_vq.small import ENGLISH, started
from vqtok.errors import ConfigError
from vqtok.models.adapters.chameleon import ChameleonTokenizer
from vqtok.models.adapters.dac import DacTokenizer
from vqtok.models.adapters.encodec import EncodecTokenizer
from vqtok.models.adapters.mimi import MimiTokenizer
from vqtok.models.numerics import PRODUCTS


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """The same in every test, and for any order of them."""
    rng = np.random.default_rng(5)
    smooth = [np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((12, 12, 1))) for _ in range(6)]
    noise = rng.normal(0, 12, (6, 72, 72, 3))
    pixels = [(a + b).clip(0, 255).astype(np.uint8) for a, b in zip(smooth, noise, strict=True)]
    return [Image.fromarray(one) for one in pixels]


def sounds(seconds: float, rate: int, count: int = 2) -> list[tuple[np.ndarray, int]]:
    """Noise that grows."""
    rng = np.random.default_rng(3)
    loudness = np.linspace(0.02, 0.5, int(seconds * rate))
    noise = [rng.standard_normal(loudness.size) * loudness for _ in range(count)]
    return [(wave.astype(np.float32), rate) for wave in noise]


def flips(model, other, items: list) -> float:
    """Share of codes that differ."""
    pairs = zip(model.tokenize(items), other.tokenize(items), strict=True)
    differ = torch.cat([(a.codes != b.codes).flatten() for a, b in pairs])
    return float(differ.float().mean())


def codes_of(model, inputs: torch.Tensor) -> torch.Tensor:
    with model.inference():
        return model.encode(inputs)


def products_of(model, item) -> dict[str, torch.dtype]:
    """What every linear map and convolution of the whole tokenizer puts out while it tokenizes a
    raw item, or encodes a tensor."""
    seen: dict[str, torch.dtype] = {}

    def note(name: str, output: torch.Tensor) -> None:
        seen[name] = output.dtype

    hooks = [
        module.register_forward_hook(lambda m, args, output, name=name: note(name, output))
        for name, module in model.named_modules()
        if isinstance(module, PRODUCTS)
    ]
    if isinstance(item, torch.Tensor):
        codes_of(model, item)
    else:
        model.tokenize([item])
    for hook in hooks:
        hook.remove()
    return seen


def test_exact_is_the_tokenizer_itself():
    model = fresh()

    assert model.numerics == "exact"
    assert model.with_numerics("exact") is model


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_flips_few_codes_of_every_kind_of_quantizer_and_nothing_of_the_model(kind, images):
    model, items = trained(kind), images
    state = copy.deepcopy(model.state_dict())
    before, prints = model.tokenize(items), model.fingerprint

    other = model.with_numerics("bf16")

    assert flips(model, other, items) < 0.03
    assert all(
        torch.equal(a.codes, b.codes) for a, b in zip(before, model.tokenize(items), strict=True)
    )
    assert model.fingerprint == prints
    for name, value in other.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])
        assert value.data_ptr() == model.state_dict()[name].data_ptr()  # no memory of its own


def test_codes_in_bf16_have_another_encode_fingerprint_and_the_same_decode_fingerprint(images):
    model = trained()
    other = model.with_numerics("bf16")

    assert other.fingerprint.encode != model.fingerprint.encode
    assert other.fingerprint.decode == model.fingerprint.decode
    assert other.fingerprint.codebook == model.fingerprint.codebook
    (tokens,) = other.tokenize(images[:1])
    (back,) = model.detokenize([tokens])  # refuses codes of another tokenizer
    assert back.size == (72, 72)


def test_the_encoder_computes_in_bfloat16_but_for_its_ends_and_nothing_else_does(images):
    seen = products_of(trained().with_numerics("bf16"), images[0])

    low = {name for name, dtype in seen.items() if dtype == torch.bfloat16}
    assert seen["encoder.embedding.proj"] == torch.float32
    assert seen["encoder.to_latent"] == torch.float32
    assert {"encoder.blocks.0.in_proj", "encoder.blocks.1.out_proj"} <= low
    assert all(name.startswith("encoder.") for name in low)


@pytest.mark.parametrize("kind", ["vq", "residual", "fsq"])
def test_the_quantizer_gets_float32_latents_with_all_their_digits(kind, images, monkeypatch):
    other, got = trained(kind).with_numerics("bf16"), []
    encode = type(other.quantizer).encode

    def spy(self, latents, num_codebooks=None):
        got.append((latents, torch.is_autocast_enabled("cpu")))
        return encode(self, latents, num_codebooks)

    monkeypatch.setattr(type(other.quantizer), "encode", spy)
    other.tokenize(images)

    for latents, autocast in got:
        assert latents.dtype == torch.float32
        assert not autocast
        # not numbers that went through bfloat16
        assert (latents != latents.bfloat16().float()).float().mean() > 0.9


def test_fsq_keeps_its_codes_where_a_cast_of_everything_would_lose_them(images):
    model, items = trained("fsq"), images
    other = model.with_numerics("bf16")

    used = [
        torch.cat([t.codes.flatten() for t in m.tokenize(items)]).unique() for m in (model, other)
    ]

    assert len(used[1]) >= 0.95 * len(used[0])
    grid = model.quantizer.decode(torch.arange(200)[:, None])
    assert len(grid.unique(dim=0)) == 200
    assert torch.equal(other.quantizer.decode(torch.arange(200)[:, None]), grid)


def test_flipped_codes_are_near_ties(images):
    model, items = trained(), images
    other, quantizer = model.with_numerics("bf16"), model.quantizer
    inputs = torch.stack([model.processor.read(item)[0] for item in items])

    with model.inference():
        latents = model.encoder(inputs)
        far = [
            (latents - quantizer.decode(m.encode(inputs).movedim(1, -1))).norm(dim=-1)
            for m in (model, other)
        ]

    regret = (far[1] - far[0]) / far[0].mean()
    assert regret.min() > -1e-5  # exact codes are the nearest
    assert regret.max() < 0.05


@pytest.mark.parametrize("middle", ["mamba", "transformer"])
def test_a_sound_in_pieces_has_the_same_codes_in_bf16_as_the_whole(middle):
    other = lively(middle=middle, middle_depth=1).with_numerics("bf16")
    wave = torch.from_numpy(sounds(0.2, 16_000, 1)[0][0])[None, None]

    whole = codes_of(other, wave)
    with other.inference():
        pieces = other.encode(wave, chunk_samples=500)

    assert (whole != pieces).float().mean() < 0.03  # products of other shapes add up otherwise
    seen = products_of(other, sounds(0.1, 16_000, 1)[0])
    low = {name for name, dtype in seen.items() if dtype == torch.bfloat16}
    assert low  # the way in pieces, which goes around the encoder's forward
    assert seen["encoder.paths.first.0.proj"] == torch.float32
    assert all(name.startswith("encoder.paths.second") for name in low)


def test_bf16_flips_few_codes_of_sounds():
    model = lively()

    assert flips(model, model.with_numerics("bf16"), sounds(0.3, 16_000)) < 0.05


def test_a_text_tokenized_in_bf16_comes_back_as_it_was():
    model = started()
    other = model.with_numerics("bf16")

    tokens = other.tokenize([ENGLISH, "", "ß\n"])

    assert model.detokenize(tokens) == [ENGLISH, "", "ß\n"]
    low = {n for n, d in products_of(other, ENGLISH).items() if d == torch.bfloat16}
    assert low
    assert all(name.startswith("encoder.") for name in low)


def test_vectors_in_bf16_get_the_same_codes_but_for_near_ties():
    model = with_networks().fit(clustered(400))

    assert flips(model, model.with_numerics("bf16"), list(clustered(300, seed=2))) < 0.05


def test_a_profile_that_would_change_nothing_is_refused():
    for model in (fresh(), fresh(latent_dim=6, encoder_widths=[8], decoder_widths=[8])):
        with pytest.raises(ConfigError, match="means nothing to this EmbeddingVQModel"):
            model.with_numerics("bf16")


def test_only_a_float32_tokenizer_has_profiles():
    model = with_networks()
    with pytest.raises(ConfigError, match="must be one of"):
        model.with_numerics("fp8")
    with pytest.raises(ConfigError, match=r"numerics 'bf16' and weights in torch\.float32"):
        model.with_numerics("bf16").with_numerics("exact")
    with pytest.raises(ConfigError, match=r"weights in torch\.bfloat16"):
        model.compute_in(torch.bfloat16).with_numerics("exact")


def test_a_copy_in_another_process_makes_the_same_codes():
    other, items = with_networks().with_numerics("bf16"), list(clustered(50).numpy())

    there = pickle.loads(pickle.dumps(other))

    assert there.numerics == "bf16"
    assert there.fingerprint == other.fingerprint
    assert flips(there, other, items) == 0
    assert products_of(there, items[0]) == products_of(other, items[0])


ADAPTERS = {
    "dac": (natives.dac, DacTokenizer, [2, 1, 4800]),
    "encodec": (natives.encodec, EncodecTokenizer, [2, 1, 4800]),
    "mimi": (natives.mimi, MimiTokenizer, [2, 1, 9600]),
    "chameleon": (natives.chameleon_vq, ChameleonTokenizer, [2, 3, 32, 32]),
}


@pytest.mark.parametrize("family", ADAPTERS)
def test_an_adapter_casts_the_encoder_of_the_native_model_and_not_its_quantizer(family):
    native, adapter, shape = ADAPTERS[family]
    source = native()
    model = adapter.fresh(source.config)
    model.native.load_state_dict(source.state_dict())
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(6)).clamp(-3, 3) / 3

    other = model.eval().with_numerics("bf16")

    low = {n for n, d in products_of(other, inputs).items() if d == torch.bfloat16}
    parts = tuple(f"native.{name}." for name in adapter.encoder_parts)
    assert low
    assert all(name.startswith(parts) for name in low)
    assert (codes_of(model, inputs) != codes_of(other, inputs)).float().mean() < 0.1
    assert other.fingerprint.decode == model.fingerprint.decode
    assert other.fingerprint.encode != model.fingerprint.encode
    assert all(tensor.dtype == torch.float32 for tensor in other.parameters())
