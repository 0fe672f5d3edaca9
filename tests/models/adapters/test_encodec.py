"""EnCodec, mono and stereo, against the native model and its own feature extractor."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, EncodecFeatureExtractor, EncodecModel

from tests.models.adapters import natives
from vqtok.errors import CodeRangeError, ConfigError, FingerprintError, InputError, ShapeError
from vqtok.models.adapters.encodec import EncodecTokenizer
from vqtok.models.auto import AutoVQTokenizer


def sound(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    """Noise that grows louder, so that chunks have different scales."""
    noise = np.random.default_rng(seed).standard_normal((channels, samples))
    return (noise * np.linspace(0.02, 0.5, samples)).astype(np.float32)


@pytest.fixture(scope="module")
def mono_folder(tmp_path_factory):
    extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000)
    return natives.save(natives.encodec(), tmp_path_factory.mktemp("mono"), extractor)


@pytest.fixture(scope="module")
def stereo_folder(tmp_path_factory):
    extractor = EncodecFeatureExtractor(
        feature_size=2, sampling_rate=48_000, chunk_length_s=0.1, overlap=0.01
    )
    return natives.save(natives.encodec(stereo=True), tmp_path_factory.mktemp("48"), extractor)


@pytest.fixture(scope="module")
def mono(mono_folder):
    return AutoVQTokenizer.from_pretrained(mono_folder, device="cpu")


@pytest.fixture(scope="module")
def stereo(stereo_folder):
    return AutoVQTokenizer.from_pretrained(stereo_folder, device="cpu")


@pytest.fixture(scope="module")
def native_mono(mono_folder):
    return EncodecModel.from_pretrained(mono_folder).eval()


@pytest.fixture(scope="module")
def native_stereo(stereo_folder):
    return EncodecModel.from_pretrained(stereo_folder).eval()


def test_it_says_what_it_is(mono, stereo):
    assert type(mono) is type(stereo) is EncodecTokenizer
    assert not mono.training
    assert (mono.modality, mono.num_codebooks, mono.codebook_sizes) == ("audio", 8, (16,) * 8)
    assert (mono.sample_rate_hz, mono.frame_rate_hz, mono.channels) == (24_000, 300.0, 1)
    assert (stereo.sample_rate_hz, stereo.frame_rate_hz, stereo.channels) == (48_000, 600.0, 2)
    assert mono.rate.per == "second"
    assert mono.rate.bits == 300 * 8 * 4
    assert stereo.rate.bits == 600 * 8 * 4
    assert mono.config.model_type == "encodec"
    assert mono.quantizer is mono.native.quantizer


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 79, 80, 5003])
@pytest.mark.parametrize(("codebooks", "bandwidth"), [(2, 2.4), (4, 4.8), (8, 9.6), (None, 9.6)])
def test_codes_and_outputs_are_the_native_ones(mono, native_mono, samples, codebooks, bandwidth):
    inputs = torch.from_numpy(sound(1, samples))[None].repeat(2, 1, 1)
    inputs[1] *= 0.5

    codes = mono.encode(inputs, num_codebooks=codebooks)

    native = native_mono.encode(inputs, bandwidth=bandwidth)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, native.audio_codes[0])
    decoded = native_mono.decode(native.audio_codes, native.audio_scales).audio_values
    assert torch.equal(mono.decode(codes), decoded)


@torch.no_grad()
def test_any_number_of_codebooks_is_the_beginning_of_all(mono):
    inputs = torch.from_numpy(sound(1, 4000))[None]
    whole = mono.encode(inputs)

    assert len(whole[0, 0].unique()) > 3
    for count in range(1, 9):
        assert torch.equal(mono.encode(inputs, num_codebooks=count), whole[:, :count])


@torch.no_grad()
@pytest.mark.parametrize("samples", [500, 4750, 4752, 4800, 4801, 20_000])
@pytest.mark.parametrize(("codebooks", "bandwidth"), [(2, 4.8), (None, 19.2)])
def test_stereo_tokens_are_the_native_chunks_and_scales(
    stereo, native_stereo, stereo_folder, samples, codebooks, bandwidth
):
    waveform = sound(2, samples)
    extractor = AutoFeatureExtractor.from_pretrained(stereo_folder)

    (tokens,) = stereo.tokenize([(waveform, 48_000)], num_codebooks=codebooks)
    ((back, rate),) = stereo.detokenize([tokens])

    inputs = extractor(waveform, sampling_rate=48_000, return_tensors="pt")
    native = native_stereo.encode(**inputs, bandwidth=bandwidth)
    chunks, _, levels, frames = native.audio_codes.shape
    assert chunks > 1
    assert torch.equal(
        tokens.codes.view(levels, chunks, frames), native.audio_codes[:, 0].transpose(0, 1)
    )
    assert tokens.meta["scales"] == [scale.item() for scale in native.audio_scales]
    decoded = native_stereo.decode(
        native.audio_codes,
        native.audio_scales,
        last_frame_pad_length=native.last_frame_pad_length,
    ).audio_values[0, :, :samples]
    assert rate == 48_000
    assert back.shape == (2, samples)
    assert np.array_equal(back, decoded.numpy())


@torch.no_grad()
def test_stereo_tensors_are_the_native_ones(stereo, native_stereo):
    inputs = torch.from_numpy(sound(2, 2 * 4752))[None].repeat(2, 1, 1)
    inputs[1] *= 0.1

    codes, scales, filling = stereo.encode_chunks(inputs)

    native = native_stereo.encode(inputs, bandwidth=19.2)
    assert torch.equal(codes, native.audio_codes.permute(1, 2, 0, 3).flatten(2))
    assert torch.equal(codes, stereo.encode(inputs))
    assert filling == native.last_frame_pad_length
    decoded = native_stereo.decode(
        native.audio_codes, native.audio_scales, last_frame_pad_length=filling
    ).audio_values
    assert torch.equal(stereo.decode(codes, scales, filling), decoded)
    assert torch.equal(stereo(inputs).reconstruction, decoded[..., : inputs.shape[-1]])


def test_stereo_codes_that_are_no_whole_chunks_are_refused(stereo):
    codes = torch.zeros(1, 8, 61, dtype=torch.int64)

    assert stereo.decode(codes[..., :60]).shape == (1, 2, 4800)
    with pytest.raises(ShapeError, match="whole chunks of 60 frames"):
        stereo.decode(codes)
    with pytest.raises(ShapeError, match="and 2 scales"):
        stereo.decode(codes, torch.ones(1, 2))


@torch.no_grad()
def test_mono_tokens_are_those_of_the_native_feature_extractor(mono, native_mono, mono_folder):
    waveforms = [sound(1, samples, seed=samples) for samples in (1, 777, 6000)]
    extractor = AutoFeatureExtractor.from_pretrained(mono_folder)

    tokens = mono.tokenize([(waveform, 24_000) for waveform in waveforms])
    back = mono.detokenize(tokens)

    for waveform, item, (output, rate) in zip(waveforms, tokens, back, strict=True):
        inputs = extractor(waveform[0], sampling_rate=24_000, return_tensors="pt")
        native = native_mono.encode(**inputs, bandwidth=9.6)
        decoded = native_mono.decode(native.audio_codes, native.audio_scales).audio_values
        assert torch.equal(item.codes, native.audio_codes[0, 0])
        assert item.meta == {"samples": waveform.shape[1]}
        assert rate == 24_000
        assert np.array_equal(output, decoded[0, :, : waveform.shape[1]].numpy())


@pytest.mark.parametrize("which", ["mono", "stereo"])
def test_a_batch_of_mixed_lengths_gives_what_each_gives_alone(which, request):
    tok = request.getfixturevalue(which)
    items = [
        (sound(tok.channels, samples, seed=samples), tok.sample_rate_hz)
        for samples in (900, 5000, 900, 4900, 900)
    ]

    together = tok.tokenize(items, batch_size=2)

    for item, tokens in zip(items, together, strict=True):
        (alone,) = tok.tokenize([item])
        assert torch.equal(tokens.codes, alone.codes)
        assert tokens.meta.keys() == alone.meta.keys()
        assert tokens.meta["samples"] == item[0].shape[1]
        if which == "stereo":
            assert tokens.meta["scales"] == pytest.approx(alone.meta["scales"], rel=1e-6)


def test_another_sample_rate_is_resampled(mono):
    from torchaudio.functional import resample

    waveform = sound(1, 4410)

    (tokens,) = mono.tokenize([(waveform, 44_100)])

    resampled = resample(torch.from_numpy(waveform), 44_100, 24_000)
    (expected,) = mono.tokenize([(resampled, 24_000)])
    assert tokens.meta == {"samples": 2400}
    assert torch.equal(tokens.codes, expected.codes)


def test_wrong_channels_and_rates_are_refused(mono, stereo):
    with pytest.raises(InputError, match="this sound has 2 channels, this tokenizer takes 1"):
        mono.tokenize([(sound(2, 100), 24_000)])
    with pytest.raises(InputError, match="has 1 channels, this tokenizer takes 2"):
        stereo.tokenize([(sound(1, 100), 48_000)])
    with pytest.raises(ShapeError, match=r"wants \[B, 1, T\]"):
        mono.encode(torch.zeros(1, 2, 100))
    with pytest.raises(ShapeError, match=r"wants float \[B, C, T\]"):
        mono.encode(torch.zeros(1, 100))
    with pytest.raises(ConfigError, match="num_codebooks must be 1 to 8 here; got 9"):
        mono.encode(torch.zeros(1, 1, 100), num_codebooks=9)


def test_codes_are_checked_before_they_are_decoded(mono):
    codes = torch.zeros(1, 8, 4, dtype=torch.int64)

    with pytest.raises(CodeRangeError, match=r"codebook 3 holds codes 0 to 15, .* 0 to 16"):
        mono.decode(codes.index_fill(1, torch.tensor([3]), 16).where(torch.arange(4) > 0, 0))
    with pytest.raises(ShapeError, match="1 <= q <= 8"):
        mono.decode(torch.zeros(1, 9, 4, dtype=torch.int64))
    with pytest.raises(ShapeError, match="must be int64"):
        mono.decode(codes.int())


def test_tokens_of_another_codec_are_refused(mono, stereo):
    tokens = mono.tokenize([(sound(1, 500), 24_000)])

    with pytest.raises(FingerprintError, match="was made by the tokenizer"):
        stereo.detokenize(tokens)


def test_saving_gives_the_native_layout_and_the_same_tokenizer(mono, tmp_path):
    mono.save_pretrained(tmp_path)

    again = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)
    native = EncodecModel.from_pretrained(tmp_path).eval()
    inputs = torch.from_numpy(sound(1, 3000))[None]
    assert again.fingerprint == mono.fingerprint
    assert torch.equal(native.encode(inputs, bandwidth=9.6).audio_codes[0], mono.encode(inputs))


def test_lower_precision_decodes_what_float32_encoded(mono_folder, mono):
    lower = AutoVQTokenizer.from_pretrained(mono_folder, device="cpu", dtype="bfloat16")

    tokens = mono.tokenize([(sound(1, 2000), 24_000)])

    assert lower.dtype == torch.bfloat16
    assert lower.fingerprint.decode == mono.fingerprint.decode
    assert lower.fingerprint.encode != mono.fingerprint.encode
    ((full, _),), ((rounded, _),) = mono.detokenize(tokens), lower.detokenize(tokens)
    assert np.abs(full - rounded).max() < 0.1 * np.abs(full).max() + 0.05
    lower.tokenize([(sound(1, 2000), 24_000)])


def test_an_adapter_does_not_train(mono):
    try:
        with pytest.raises(ConfigError, match="does not train"):
            mono.train()(torch.zeros(1, 1, 500))
    finally:
        mono.eval()


def test_without_options_beside_the_weights_the_config_says_them(stereo, tmp_path):
    natives.save(natives.encodec(stereo=True), tmp_path)

    bare = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu")

    item = (sound(2, 6000), 48_000)
    assert torch.equal(bare.tokenize([item])[0].codes, stereo.tokenize([item])[0].codes)
    assert bare.fingerprint == stereo.fingerprint
