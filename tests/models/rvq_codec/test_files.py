"""Codecs on disk, their processor, and their fingerprints."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from tests.models.rvq_codec.codecs import KINDS, MIDDLES, RATE, lively, noise, small, tone
from vqtok.errors import ConfigError, FingerprintError, InputError, LoadError
from vqtok.models.auto import AutoVQTokenizer
from vqtok.models.rvq_codec.audio_processing_rvq_codec import RVQCodecProcessor
from vqtok.models.rvq_codec.configuration_rvq_codec import RVQCodecConfig
from vqtok.models.rvq_codec.modeling_rvq_codec import RVQCodecModel

VARIANTS = [{"kind": kind} for kind in KINDS]
VARIANTS += [{"middle": middle, "causal": True} for middle in MIDDLES]
VARIANTS += [{"channels": 2, "sample_rate_hz": 24_000}]


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_codes_survive_saving_and_loading(variant, tmp_path):
    model = lively(**variant)
    samples = noise(2, model.channels, 700)
    codes = model.encode(samples)

    model.save_pretrained(tmp_path)
    loaded = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)

    assert type(loaded) is RVQCodecModel
    assert torch.equal(loaded.encode(samples), codes)
    assert torch.equal(loaded.decode(codes), model.decode(codes))
    assert loaded.fingerprint == model.fingerprint
    for field in ("sample_rate_hz", "channels", "strides", "causal", "middle", "quantizer_config"):
        assert getattr(loaded.config, field) == getattr(model.config, field)


@torch.no_grad()
def test_a_file_in_float16_is_half_as_large_and_gives_its_own_codes_again(tmp_path):
    model, samples = lively(widths=[64, 96]), noise(2, 1, 700)

    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    model.save_pretrained(tmp_path / "full")
    loaded = AutoVQTokenizer.from_pretrained(tmp_path / "half", device="cpu", verify=True)

    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    assert loaded.dtype == torch.float32
    assert (loaded.encode(samples) != model.encode(samples))[:, 0].float().mean() < 0.02
    again = AutoVQTokenizer.from_pretrained(tmp_path / "half", device="cpu")
    assert torch.equal(again.encode(samples), loaded.encode(samples))


def test_a_canary_of_other_weights_is_noticed(tmp_path):
    lively().save_pretrained(tmp_path)
    canary = json.loads((tmp_path / "canary.json").read_text())
    lively().save_pretrained(tmp_path)
    other = json.loads((tmp_path / "canary.json").read_text())
    assert canary["codes"] != other["codes"]

    (tmp_path / "canary.json").write_text(json.dumps(canary))

    with pytest.raises((FingerprintError, LoadError)):
        AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)


def test_what_no_file_holds_starts_as_in_a_fresh_codec(tmp_path):
    """transformers builds on the meta device: what is made of constants must come back."""
    model = small(latent_dim=24, strides=[27, 2])
    model.save_pretrained(tmp_path)
    state = {k: v for k, v in model.state_dict().items() if "paths" not in k}

    loaded = RVQCodecModel.from_pretrained(None, config=model.config, state_dict=state)

    for name in ("encoder.paths.first.0", "decoder.paths.first.1", "decoder.paths.second.5"):
        weight = loaded.get_parameter(f"{name}.proj.weight")
        torch.testing.assert_close(weight, model.get_parameter(f"{name}.proj.weight"))
        assert weight.abs().sum() > 0


def test_transformers_auto_classes_know_the_family(tmp_path):
    lively(channels=2, sample_rate_hz=24_000).save_pretrained(tmp_path)

    assert type(AutoConfig.from_pretrained(tmp_path)) is RVQCodecConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is RVQCodecModel
    processor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(processor) is RVQCodecProcessor
    assert (processor.sampling_rate, processor.channels) == (24_000, 2)


def test_fingerprints_change_with_what_they_stand_for():
    model = small()
    before = model.fingerprint

    def after(change) -> set[str]:
        """Which of the three digests a change changes."""
        other = small()
        other.load_state_dict(model.state_dict())
        assert other.fingerprint == before
        with torch.no_grad():
            change(other)
        parts = ("encode", "decode", "codebook")
        return {p for p in parts if getattr(other.fingerprint, p) != getattr(before, p)}

    taps = "paths.second.2.taps"
    assert after(lambda m: m.encoder.get_parameter(taps).add_(1)) == {"encode"}
    assert after(lambda m: m.decoder.paths.first[1].proj.weight.add_(1)) == {"encode", "decode"}
    assert after(lambda m: next(m.quantizer.buffers()).add_(1)) == {"encode", "decode", "codebook"}
    assert after(lambda m: setattr(m.config, "causal", True)) == {"encode", "decode"}
    assert after(lambda m: setattr(m.config, "sample_rate_hz", 8000)) == {"encode", "decode"}
    assert after(lambda m: setattr(m.processor, "sampling_rate", 8000)) == {"encode"}
    assert after(lambda m: m.config.quantizer_config.update(level_dropout=0.1)) == set()


def test_a_processor_of_another_codec_is_refused_and_the_own_one_stays():
    model = small()
    own = model.processor

    for wrong in (RVQCodecProcessor(24_000), RVQCodecProcessor(16_000, 2)):
        with pytest.raises(LoadError, match="do not belong together"):
            model.processor = wrong
    with pytest.raises(ConfigError, match="must be a RVQCodecProcessor"):
        model.processor = None
    assert model.processor is own


def test_a_folder_whose_processor_does_not_fit_is_refused(tmp_path):
    small().save_pretrained(tmp_path)
    RVQCodecProcessor(8000).save_pretrained(tmp_path)

    with pytest.raises(LoadError, match="do not belong together"):
        RVQCodecModel.from_pretrained(tmp_path)


def test_the_processor_gives_a_batch_of_one_length(tmp_path):
    processor = RVQCodecProcessor(8000)
    sounds = [(tone(1600), RATE), (tone(800, 8000), 8000)]

    batch = processor(sounds)

    assert batch["input_values"].shape == (2, 1, 800)
    assert isinstance(processor(sounds, return_tensors="np")["input_values"], np.ndarray)
    mixed = processor([*sounds, (tone(99), 8000)], return_tensors=None)["input_values"]
    assert [len(s[0]) for s in mixed] == [800, 800, 99]
    assert processor(sounds[0])["input_values"].shape == (1, 1, 800)
    for options in ({"sampling_rate": 8000}, {"padding": True}):
        with pytest.raises(InputError, match="knows no option"):
            processor(sounds, **options)
    with pytest.raises(InputError, match="return_tensors"):
        processor(sounds, return_tensors="tf")
    with pytest.raises(InputError, match="one length; got \\[99, 800\\]"):
        processor([*sounds, (tone(99), 8000)])


def test_a_processor_is_saved_whole_and_loud_sounds_are_clamped(tmp_path):
    RVQCodecProcessor(24_000, 2).save_pretrained(tmp_path)

    loaded = RVQCodecProcessor.from_pretrained(tmp_path)
    written, rate = loaded.write(torch.tensor([[0.5, 3.0, -2.0]], dtype=torch.bfloat16))

    assert loaded.code_options() == RVQCodecProcessor(24_000, 2).code_options()
    assert (written.tolist(), rate) == ([[0.5, 1.0, -1.0]], 24_000)
    assert written.dtype == np.float32
    for wrong in ({"sampling_rate": 0}, {"channels": True}, {"sampling_rate": 16e3}):
        with pytest.raises(ConfigError, match="whole number"):
            RVQCodecProcessor(**wrong)
