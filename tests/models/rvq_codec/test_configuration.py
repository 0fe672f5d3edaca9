"""Presets as their table says, sizes at the edge of what is allowed, and what is refused."""

import re

import pytest
import torch

from tests.models.rvq_codec.codecs import KINDS, noise, small
from vqtok.errors import ConfigError
from vqtok.models.rvq_codec import modeling_rvq_codec
from vqtok.models.rvq_codec.configuration_rvq_codec import PRESETS, RVQCodecConfig
from vqtok.models.rvq_codec.modeling_rvq_codec import RVQCodecModel


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"sample_rate_hz": 3999}, "sample_rate_hz"),
        ({"channels": 0}, "channels"),
        ({"channels": 33}, "channels"),
        ({"strides": []}, "strides"),
        ({"strides": [8192, 2]}, "strides"),
        ({"strides": [1, 1]}, "strides"),
        ({"strides": [0, 4]}, "strides"),
        ({"widths": [16]}, "widths"),
        ({"widths": [4, 16]}, "widths"),
        ({"encoder_depths": [1]}, "encoder_depths"),
        ({"decoder_depths": [-1, 1]}, "decoder_depths"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"latent_dim": 65}, "latent_dim"),
        ({"middle": "lstm"}, "middle"),
        ({"middle": "mamba", "middle_depth": 0}, "middle_depth"),
        ({"middle_depth": 3}, "middle that is not none"),
        ({"quantizer_config": {"codebook_size": 8}}, "kind"),
        ({"quantizer_config": KINDS["vq"] | {"dim": 8}}, "dim"),
        ({"quantizer_config": KINDS["residual"] | {"num_codebooks": 33}}, "32 codebooks"),
        ({"hop": 3}, "no options hop"),
        ({"causal": "yes"}, "causal"),
    ],
    ids=str,
)
def test_wrong_configurations_are_refused(fields, word):
    with pytest.raises(ConfigError, match=word):
        RVQCodecConfig.preset("nano", **fields)


def test_presets_that_are_not_there_and_heads_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="presets are nano, 16khz, 24khz, 44khz"):
        RVQCodecConfig.preset("tiny")
    with pytest.raises(ConfigError, match="even multiple of heads"):
        small(middle="transformer", widths=[16, 200])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"latent_dim": 1},
        {"channels": 32},
        {"strides": [2], "widths": [64], "encoder_depths": [0], "decoder_depths": [0]},
        {"strides": [2, 3, 5], "widths": [8, 16, 24]},
        {"strides": [1, 2], "latent_dim": 24},
    ],
    ids=str,
)
def test_shapes_at_the_edge_of_what_is_allowed_work(fields, causal):
    depths = [1] * len(fields.get("strides", [1, 1]))
    fields = {"encoder_depths": depths, "decoder_depths": depths} | fields
    model = small(causal=causal, **fields)
    samples = noise(1, model.channels, 200)

    with torch.no_grad():
        codes = model.encode(samples)
        back = model.decode(codes)

    assert codes.shape[-1] == -(-200 // model.hop)
    assert back.shape == (1, model.channels, codes.shape[-1] * model.hop)
    assert back.isfinite().all()


def test_the_presets_are_as_their_table_says():
    rows = re.findall(
        r"^\| (\w+) +\| ([\d.]+) kHz +\| (\d+) \| (\d) x 1,024, ([\d.]+) kbit/s +\| ([\d.]+) M ",
        modeling_rvq_codec.__doc__,
        flags=re.MULTILINE,
    )

    assert [row[0] for row in rows] == list(PRESETS)
    for name, rate, hop, levels, kbits, millions in rows:
        with torch.device("meta"):
            model = RVQCodecModel(RVQCodecConfig.preset(name))
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        digits = len(millions.partition(".")[2])
        assert model.sample_rate_hz == float(rate) * 1000
        assert (model.hop, model.num_codebooks) == (int(hop), int(levels))
        assert round(model.rate.bits / 1000, 1) == float(kbits)
        assert round(parameters, digits) == float(millions)
