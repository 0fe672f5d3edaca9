"""DAC, Mimi and X-Codec 2 against the native models and their own feature extractors."""

import functools

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoFeatureExtractor

from tests.models.adapters import natives
from vqtok.errors import ConfigError, InputError, ShapeError
from vqtok.models.auto import AutoVQTokenizer


def sound(samples: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((1, samples))
    return (noise * np.linspace(0.02, 0.5, samples)).astype(np.float32)


class Pair:
    """A tokenizer, and the native model and extractor from the same folder."""

    def __init__(self, model, extractor, folder):
        natives.save(model, folder, extractor)
        self.folder = folder
        self.tok = AutoVQTokenizer.from_pretrained(folder, device="cpu")
        self.native = type(model).from_pretrained(folder).eval()
        self.extractor = AutoFeatureExtractor.from_pretrained(folder)

    def features(self, waveform):
        argument = "audio" if "Xcodec2" in type(self.native).__name__ else "raw_audio"
        rate = self.extractor.sampling_rate
        return self.extractor(**{argument: waveform[0]}, sampling_rate=rate, return_tensors="pt")


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory):
    """A family and an option of its native model to its pair; each is made once."""
    extractors = {
        "dac": lambda rate: transformers.DacFeatureExtractor(sampling_rate=rate, hop_length=40),
        "mimi": lambda _: transformers.EncodecFeatureExtractor(sampling_rate=24_000),
        "xcodec2": lambda: transformers.Xcodec2FeatureExtractor(),
    }

    @functools.cache
    def make(family, *options):
        model = getattr(natives, family)(*options)
        return Pair(model, extractors[family](*options), tmp_path_factory.mktemp(family))

    return make


@pytest.fixture(params=[16_000, 44_100])
def dac(request, pair_of):
    return pair_of("dac", request.param)


@pytest.fixture(params=[1, 2])
def mimi(request, pair_of):
    return pair_of("mimi", request.param)


@pytest.fixture
def xcodec2(pair_of):
    return pair_of("xcodec2")


@pytest.fixture(params=[("dac", 16_000), ("mimi", 1), ("xcodec2",)], ids=lambda p: p[0])
def codec(request, pair_of):
    return pair_of(*request.param)


def test_dac_says_what_it_is(dac):
    tok = dac.tok
    assert (tok.modality, tok.num_codebooks, tok.codebook_sizes) == ("audio", 5, (32,) * 5)
    assert tok.sample_rate_hz == dac.native.config.sampling_rate
    assert (tok.rate.bits, tok.rate.per) == (tok.sample_rate_hz / 40 * 5 * 5, "second")


@torch.no_grad()
@pytest.mark.parametrize("codebooks", [1, 2, 5, None])
@pytest.mark.parametrize("samples", [40, 1237])
def test_dac_codes_and_outputs_are_the_native_ones(dac, codebooks, samples):
    inputs = torch.from_numpy(sound(samples))[None].repeat(2, 1, 1)
    inputs[1] *= 0.3

    codes = dac.tok.encode(inputs, num_codebooks=codebooks)

    native = dac.native.encode(inputs, n_quantizers=codebooks).audio_codes
    assert torch.equal(codes, native)
    decoded = dac.native.decode(audio_codes=native).audio_values
    assert torch.equal(dac.tok.decode(codes), decoded[:, None])


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 400, 1999])
def test_dac_tokens_are_those_of_the_native_feature_extractor(dac, samples):
    waveform = sound(samples)

    (tokens,) = dac.tok.tokenize([(waveform, dac.tok.sample_rate_hz)])
    ((back, rate),) = dac.tok.detokenize([tokens])

    native = dac.native.encode(dac.features(waveform)["input_values"]).audio_codes
    assert torch.equal(tokens.codes, native[0])
    decoded = dac.native.decode(audio_codes=native).audio_values
    assert rate == dac.tok.sample_rate_hz
    assert np.array_equal(back, decoded[:, :samples].numpy())


def test_mimi_says_what_it_is(mimi):
    tok = mimi.tok
    assert (tok.modality, tok.num_codebooks, tok.codebook_sizes) == ("audio", 6, (32,) * 6)
    assert (tok.sample_rate_hz, tok.frame_rate_hz, tok.hop) == (24_000, 12.5, 1920)
    assert (tok.rate.bits, tok.rate.per) == (12.5 * 6 * 5, "second")


@torch.no_grad()
@pytest.mark.parametrize("codebooks", [2, 5, None])
@pytest.mark.parametrize("samples", [1, 1920, 9001])
def test_mimi_codes_and_outputs_are_the_native_ones(mimi, codebooks, samples):
    inputs = torch.from_numpy(sound(samples))[None].repeat(2, 1, 1)
    inputs[1] *= 0.3

    codes = mimi.tok.encode(inputs, num_codebooks=codebooks)

    native = mimi.native.encode(inputs, num_quantizers=codebooks).audio_codes
    assert torch.equal(codes, native)
    assert torch.equal(mimi.tok.decode(codes), mimi.native.decode(native).audio_values)


@torch.no_grad()
def test_mimi_gives_one_codebook_where_the_native_call_refuses(mimi):
    inputs = torch.from_numpy(sound(4000))[None]

    codes = mimi.tok.encode(inputs, num_codebooks=1)

    assert torch.equal(codes, mimi.native.encode(inputs).audio_codes[:, :1])
    assert mimi.tok.decode(codes).shape == (1, 1, 3 * 1920)


@torch.no_grad()
def test_mimi_tokens_are_those_of_the_native_feature_extractor(mimi):
    waveform = sound(7001)

    (tokens,) = mimi.tok.tokenize([(waveform, 24_000)])
    ((back, _),) = mimi.tok.detokenize([tokens])

    native = mimi.native.encode(**mimi.features(waveform)).audio_codes
    assert len(native.unique()) > 4
    assert torch.equal(tokens.codes, native[0])
    assert np.array_equal(back, mimi.native.decode(native).audio_values[0, :, :7001].numpy())


def test_xcodec2_says_what_it_is(xcodec2):
    tok = xcodec2.tok
    assert (tok.modality, tok.num_codebooks, tok.codebook_sizes) == ("audio", 1, (64,))
    assert (tok.sample_rate_hz, tok.frame_rate_hz) == (16_000, 50.0)
    assert (tok.rate.bits, tok.rate.per) == (50 * 6, "second")


@torch.no_grad()
@pytest.mark.parametrize("samples", [3000, 6400])
def test_xcodec2_tokens_are_those_of_the_native_feature_extractor(xcodec2, samples):
    waveform, features = sound(samples), xcodec2.features(sound(samples))

    (tokens,) = xcodec2.tok.tokenize([(waveform, 16_000)])
    ((back, rate),) = xcodec2.tok.detokenize([tokens])

    native = xcodec2.native.encode(**features).audio_codes
    assert len(native.unique()) > 1
    assert torch.equal(tokens.codes, native[0].long())
    decoded = xcodec2.native.decode(native).audio_values
    assert rate == 16_000
    assert np.array_equal(back, decoded[0, :, :samples].numpy())
    features.pop("padding_mask")
    again = xcodec2.tok.encode(
        features["input_values"],
        input_features=features["input_features"],
        input_features_mask=features["input_features_mask"],
    )
    assert torch.equal(again, native.long())


def test_xcodec2_has_one_codebook_and_wants_whole_calls(xcodec2):
    inputs = torch.from_numpy(sound(3000))[None]

    with pytest.raises(ConfigError, match="num_codebooks must be 1 to 1"):
        xcodec2.tok.encode(inputs, num_codebooks=2)
    with pytest.raises(ShapeError, match="comes with input_features"):
        xcodec2.tok.encode(inputs, input_features_mask=torch.ones(1, 3))


def test_a_codec_saved_and_loaded_is_the_same(codec, tmp_path):
    codec.tok.save_pretrained(tmp_path)

    again = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)

    assert type(again) is type(codec.tok)
    assert again.fingerprint == codec.tok.fingerprint
    assert (
        type(codec.native).from_pretrained(tmp_path).config.model_type
        == codec.tok.config.model_type
    )


def test_a_codec_reads_what_a_path_or_bytes_hold(codec, tmp_path):
    import soundfile

    tok = codec.tok
    waveform = sound(4000)
    soundfile.write(tmp_path / "a.wav", waveform.T, tok.sample_rate_hz, subtype="FLOAT")
    content = (tmp_path / "a.wav").read_bytes()

    items = [(waveform, tok.sample_rate_hz), tmp_path / "a.wav", {"bytes": content, "path": None}]
    expected, *others = tok.tokenize(items)

    for tokens in others:
        assert torch.equal(tokens.codes, expected.codes)
    with pytest.raises(InputError, match="broken"):
        tok.tokenize([{"bytes": content[:20], "path": "broken.wav"}])


def test_a_config_gives_a_fresh_codec():
    tok = AutoVQTokenizer.from_config(natives.dac().config)

    assert tok.codebook_sizes == (32,) * 5
    assert tok.eval().tokenize([(sound(100), 16_000)])[0].codes.shape == (5, 3)
