"""The RVQ codec as a tokenizer: any length, any company, any kind of quantizer, and back."""

import copy
import dataclasses
import io
import weakref

import numpy as np
import pytest
import soundfile
import torch

from tests.models.rvq_codec.codecs import HOP, KINDS, MIDDLES, RATE, lively, noise, small, tone
from vqtok.errors import ConfigError, FingerprintError, FormatError, InputError, ShapeError
from vqtok.models.items import PreparedItem
from vqtok.models.rvq_codec import modeling_rvq_codec

LENGTHS = [1, HOP - 1, HOP, HOP + 1, 1000]


def wav(waveform: np.ndarray, rate: int = RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, waveform.T, rate, format="WAV", subtype="FLOAT")
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [True, False])
def test_a_sound_of_any_length_comes_back_at_its_own_length(kind, causal):
    model = lively(kind, causal=causal)

    for length in LENGTHS:
        (tokens,) = model.tokenize([(tone(length), RATE)])
        ((back, rate),) = model.detokenize([tokens])

        assert tokens.codes.shape == (model.num_codebooks, -(-length // HOP))
        assert tokens.codes.dtype == torch.int64
        for codes, size in zip(tokens.codes, model.codebook_sizes, strict=True):
            assert 0 <= codes.min() <= codes.max() < size
        assert tokens.meta == {"samples": length}
        assert (back.shape, back.dtype, rate) == ((1, length), np.float32, RATE)
        assert np.abs(back).max() <= 1


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 24_000, 44_100, 48_000, 192_000])
def test_every_rate_is_resampled_to_the_codecs_own(rate):
    model = lively()

    (tokens,) = model.tokenize([(tone(rate // 4, rate), rate)])

    assert tokens.meta["samples"] == 4000
    assert tokens.codes.shape[1] == -(-4000 // HOP)
    read, _ = model.processor.read((tone(rate // 4, rate), rate))
    inside = slice(200, -200)
    assert np.abs(read.numpy() - tone(4000))[:, inside].max() < 0.01


def test_every_carrier_of_a_sound_gives_the_same_codes(tmp_path):
    model, content = lively(), wav(tone(1000))
    path = tmp_path / "sound.wav"
    path.write_bytes(content)
    carriers = [
        path,
        str(path),
        content,
        (torch.from_numpy(tone(1000)), RATE),
        {"array": tone(1000)[0], "sampling_rate": RATE},
        {"bytes": content, "path": None},
    ]

    first, *others = model.tokenize(carriers)

    assert torch.equal(first.codes, model.encode(torch.from_numpy(tone(1000))[None])[0])
    assert all(torch.equal(other.codes, first.codes) for other in others)


@pytest.mark.parametrize("middle", MIDDLES)
def test_codes_do_not_depend_on_company_order_or_batches(middle):
    model = lively(middle=middle)
    sounds = [(noise(1, n, seed=n), RATE) for n in (500, 1, 300, 500, 24, 500)]

    together = model.tokenize(sounds)
    reverse = model.tokenize(sounds[::-1])[::-1]
    batched = model.tokenize(sounds, batch_size=2)
    alone = [model.tokenize([sound])[0] for sound in sounds]

    for one, *others in zip(alone, together, reverse, batched, strict=True):
        for other in others:
            assert torch.equal(one.codes, other.codes)
            assert one.meta == other.meta


def test_long_sounds_go_through_in_windows_with_the_same_result(monkeypatch):
    model, sound = lively(), noise(1, 1000)
    whole = model.tokenize([(sound, RATE)], batch_size=2)
    with torch.no_grad():
        samples = model.decode(whole[0].codes[None])[0, :, :1000].clamp(-1, 1)

    monkeypatch.setattr(modeling_rvq_codec, "WINDOW_HOPS", 5)
    pieces = model.tokenize([(sound, RATE)])
    ((back, _),) = model.detokenize(pieces)

    assert torch.equal(pieces[0].codes, whole[0].codes)
    assert pieces[0].meta == whole[0].meta
    np.testing.assert_allclose(back, samples.numpy(), rtol=0, atol=1e-5)


def test_a_long_sound_is_never_held_whole(monkeypatch):
    model, made, alive = lively(), [], []

    def blocks(item):
        for seed in range(30):
            alive.append(sum(block() is not None for block in made))
            block = noise(1, 700, seed=seed).numpy()
            made.append(weakref.ref(block))
            yield torch.from_numpy(block)  # lives as long as anything looks into it

    monkeypatch.setattr(modeling_rvq_codec, "WINDOW_HOPS", 5)
    monkeypatch.setattr(model.processor, "blocks", blocks)
    (tokens,) = model.tokenize(["long.wav"])

    assert tokens.meta == {"samples": 21_000}
    assert tokens.codes.shape == (3, 875)
    assert len(alive) == 30
    assert max(alive) <= 2


def test_silence_at_the_end_changes_only_the_codes_that_can_see_it():
    causal, ahead = lively(causal=True), lively(causal=False)
    sound = noise(1, 1, 40 * HOP)
    longer = torch.nn.functional.pad(sound, (0, 20 * HOP))

    with torch.no_grad():
        assert torch.equal(causal.encode(longer)[..., :40], causal.encode(sound))
        same = (ahead.encode(longer)[..., :40] == ahead.encode(sound)).all(1)[0]
    with ahead.stream() as stream:
        certain = stream.push(sound).shape[-1]
    assert 25 < certain < 40
    assert same[:certain].all()


def test_fewer_codebooks_are_the_first_ones():
    model, samples = lively(), noise(2, 1, 500)
    sound = [(samples[0], RATE)]
    one = model.rate.bits / 3  # bits a second of one codebook

    codes = model.encode(samples)

    assert torch.equal(model.encode(samples, num_codebooks=2), codes[:, :2])
    assert torch.equal(model.encode(samples, bitrate_bps=2.99 * one), codes[:, :2])
    assert torch.equal(model.encode(samples, bitrate_bps=1e9), codes)
    for options in ({"num_codebooks": 2}, {"bitrate_bps": 2 * one}):
        for size in (1, 2):
            (tokens,) = model.tokenize(sound, batch_size=size, **options)
            assert torch.equal(tokens.codes, codes[0, :2])
    assert model.decode(codes[:, :1]).shape == (2, 1, 504)
    assert model.detokenize([tokens])[0][0].shape == (1, 500)


def test_a_rate_that_cannot_be_is_refused():
    model, samples = lively(), noise(1, 1, 500)
    calls = (model.encode, lambda _, **options: model.tokenize([(samples[0], RATE)], **options))

    for call in calls:
        with pytest.raises(ConfigError, match="two ways"):
            call(samples, num_codebooks=1, bitrate_bps=3000)
        for rate in (0, -1, model.rate.bits / 3 - 1, float("nan")):
            with pytest.raises(ConfigError, match="one codebook costs 2667 bits a second"):
                call(samples, bitrate_bps=rate)
        for number in (0, 4):
            with pytest.raises(ConfigError, match="num_codebooks must be 1 to 3"):
                call(samples, num_codebooks=number)
    with pytest.raises(ConfigError, match="batch_size"):
        model.tokenize([(samples[0], RATE)], batch_size=0)


def test_what_the_tokenizer_says_of_itself():
    model = small(channels=2)

    assert (model.modality, model.hop, model.channels) == ("audio", 24, 2)
    assert model.sample_rate_hz == 16_000
    assert model.frame_rate_hz == pytest.approx(16_000 / 24)
    assert model.rate.bits == pytest.approx(3 * 4 * 16_000 / 24)
    assert model.rate.per == "second"
    assert model.get_input_embeddings().weight.shape == (32, 2 * 12)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"no sound", "decode_error", r"bad\.wav cannot be read"),
        (b"", "empty", r"bad\.wav is empty"),
        (wav(tone(0)), "empty", r"bad\.wav has no samples"),
        (wav(np.full((1, 9), np.nan)), "nonfinite", r"bad\.wav holds NaN"),
        (wav(tone(9, channels=2)), "decode_error", r"bad\.wav has 2 channels, this tokenizer"),
        (None, "decode_error", r"bad\.wav cannot be opened"),
    ],
    ids=["text", "no bytes", "no samples", "nan", "stereo", "missing"],
)
def test_a_bad_sound_is_named_wherever_it_stands(content, status, message, batch_size, tmp_path):
    model, bad = lively(), tmp_path / "bad.wav"
    if content is not None:
        bad.write_bytes(content)

    with pytest.raises(InputError, match=message) as caught:
        model.tokenize([(tone(50), RATE), bad, (tone(50), RATE)], batch_size=batch_size)

    assert caught.value.status == status


def test_what_is_no_list_of_sounds_is_refused():
    model = lively()

    for wrong in ("sound.wav", b"RIFF", tone(50), torch.zeros(1, 1, 50), None):
        with pytest.raises(InputError, match="a list of items"):
            model.tokenize(wrong)
    for wrong in (tone(50), 3, (tone(50), "16000"), {"array": tone(50)}):
        with pytest.raises(InputError):
            model.tokenize([wrong])
    assert model.tokenize([]) == model.detokenize([]) == []


def test_channels_are_coded_together_and_come_back_apart():
    model = lively(channels=2, latent_dim=16)
    sound = tone(1000, channels=2)
    other = np.stack([sound[0], noise(1000).numpy()])

    one, two = model.tokenize([(sound, RATE), (other, RATE)])
    (back, _), _ = model.detokenize([one, two])

    assert one.codes.shape == (3, 42)  # no axis of channels
    assert not torch.equal(one.codes, two.codes)
    assert back.shape == (2, 1000)
    assert not np.allclose(back[0], back[1], atol=1e-3)
    with pytest.raises(InputError, match="has 1 channels, this tokenizer takes 2"):
        model.tokenize([(tone(50), RATE)])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_fresh_codec_follows_low_waveforms_already(causal, channels):
    model = small(causal=causal, channels=channels, latent_dim=24, strides=[27, 2])
    sound = torch.from_numpy(tone(80 * 54, channels=channels))[None] / 5

    with torch.no_grad():
        back = model.decoder(model.encoder(sound))

    error = (back - sound)[..., 108:-108].square().mean() / sound.square().mean()
    assert error < (0.3 if causal else 0.2)


def test_forward_trains_every_parameter_after_a_step_and_says_what_it_costs():
    for middle in MIDDLES:
        model = lively(middle=middle).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            out = model(noise(2, 1, 500), output_hidden_states=True)
            out.loss.backward()
            optimizer.step()

        assert out.reconstruction.shape == (2, 1, 500)
        assert out.codes.shape == (2, 3, 21)
        assert out.latents.shape == (2, 21, 8)
        assert len(out.hidden_states) == 4
        assert [h.shape[1:] for h in out.hidden_states] == [(84, 16), (21, 24), (21, 24), (84, 16)]
        parts = out.losses["l1"] + out.losses["mse"] + out.losses["quantizer"]
        assert torch.allclose(out.loss, parts)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_training_brings_the_sound_closer():
    model = small().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sound, losses = torch.from_numpy(tone(2400))[None].repeat(4, 1, 1), []

    for _ in range(40):
        optimizer.zero_grad()
        out = model(sound)
        out.loss.backward()
        optimizer.step()
        losses.append(out.losses["mse"].item())

    assert min(losses[-5:]) < 0.3 * max(losses[:5])


def test_masked_hops_count_neither_in_losses_nor_in_statistics():
    model = lively(causal=True)  # what is masked at the end reaches nothing before it
    sound = noise(2, 1, 490)
    mask = torch.ones(2, 21, dtype=torch.bool)
    mask[:, 15:] = False
    garbage = sound.clone()
    garbage[..., 15 * HOP :] = 0.9

    kept, other = model(sound, mask), model(garbage, mask)
    alone = model(sound[..., : 15 * HOP])

    assert kept.loss.item() == pytest.approx(other.loss.item(), rel=1e-5)
    assert kept.losses["mse"].item() == pytest.approx(alone.losses["mse"].item(), rel=1e-4)
    with pytest.raises(ShapeError, match="mask"):
        model(sound, mask[:, :20])


@torch.no_grad()
def test_bfloat16_flips_few_codes_and_still_decodes_what_was_coded_before():
    model, samples = lively(), noise(4, 1, 2000)
    (tokens,) = model.tokenize([(samples[0], RATE)])
    codes = model.encode(samples)

    half = copy.deepcopy(model).to(torch.bfloat16)

    assert half.encoder(samples.bfloat16()).dtype == torch.float32
    assert (half.encode(samples) != codes)[:, 0].float().mean() < 0.1
    assert half.detokenize([tokens])[0][0].shape == (1, 2000)
    assert half.fingerprint.decode == model.fingerprint.decode
    assert half.fingerprint.encode != model.fingerprint.encode


def test_autocast_around_tokenize_changes_no_code():
    model, sounds = lively(), [(noise(1, 2000), RATE)]

    with torch.autocast("cpu", torch.bfloat16):
        inside = model.tokenize(sounds)

    assert torch.equal(inside[0].codes, model.tokenize(sounds)[0].codes)


def test_codes_without_meta_become_a_sound_of_whole_frames():
    model = lively()
    (tokens,) = model.tokenize([(tone(100), RATE)])

    (whole, _), (own, _) = model.detokenize([dataclasses.replace(tokens, meta={}), tokens])

    assert whole.shape[-1] == tokens.codes.shape[1] * model.hop == 120
    assert np.array_equal(whole[:, :100], own)


@pytest.mark.parametrize("meta", [{"samples": 96}, {"samples": 121}, {"samples": "100"}])
def test_meta_that_cannot_belong_to_the_codes_is_refused(meta):
    model = lively()
    (tokens,) = model.tokenize([(tone(100), RATE)])

    with pytest.raises(FormatError, match="a sound of 120 samples"):
        model.detokenize([dataclasses.replace(tokens, meta=meta)])


def test_codes_that_cannot_be_are_refused():
    model = lively()
    (tokens,) = model.tokenize([(tone(100), RATE)])

    with pytest.raises(FormatError, match=r"\[q, T\]"):
        model.detokenize([dataclasses.replace(tokens, codes=tokens.codes[:, :0])])
    with pytest.raises(FormatError, match=r"\[q, T\]"):
        model.detokenize([dataclasses.replace(tokens, codes=tokens.codes[None])])
    with pytest.raises(ValueError, match="codes 0 to 15"):
        model.detokenize([dataclasses.replace(tokens, codes=tokens.codes + 16)])
    with pytest.raises(ShapeError, match="3 codebooks"):
        model.detokenize([dataclasses.replace(tokens, codes=tokens.codes.repeat(2, 1))])
    with pytest.raises(FingerprintError, match="made by"):
        lively().detokenize([tokens])


def test_wrong_tensors_are_refused():
    model = small(channels=2)

    for wrong in (torch.zeros(2, 50), torch.zeros(1, 2, 0), torch.zeros(1, 2, 50).short()):
        for options in ({}, {"chunk_samples": 10}):
            with pytest.raises(ShapeError, match=r"\[B, C, T\]"):
                model.encode(wrong, **options)
        with pytest.raises(ShapeError, match=r"\[B, C, T\]"):
            model(wrong)
    with pytest.raises(ShapeError, match=r"2 channels, \[B, 2, S\]; got \[1, 1, 50\]"):
        model.encode(torch.zeros(1, 1, 50))
    with pytest.raises(ShapeError, match="decode wants"):
        model.decode(torch.zeros(1, 3, 0, dtype=torch.int64))


def test_preparing_a_sound_changes_no_code_and_holds_no_long_one(monkeypatch):
    model, steps = lively(), []
    monkeypatch.setattr(modeling_rvq_codec, "PREPARED_SAMPLES", 3000)
    monkeypatch.setattr(modeling_rvq_codec, "WINDOW_HOPS", 16)
    monkeypatch.setattr(model, "on_step", lambda: steps.append(1))
    sounds = [(tone(2500), RATE), (tone(9000), RATE)]

    prepared = [model.prepare(sound) for sound in sounds]
    raw = model.tokenize(sounds)

    assert isinstance(prepared[0], PreparedItem)
    assert prepared[1] is sounds[1]
    assert len(steps) > 2  # a sign of life within one sound
    for one, two in zip(raw, model.tokenize(prepared), strict=True):
        assert torch.equal(one.codes, two.codes)
        assert one.meta == two.meta
