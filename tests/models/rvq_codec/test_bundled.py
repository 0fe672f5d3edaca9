"""The tokenizer that ships: its size, and a band of quality on the sentence that ships with it."""

import pytest
import torch

from tests.conftest import SAMPLES
from vqtok import AutoVQTokenizer
from vqtok.metrics.audio import mel_distance, si_sdr, stoi
from vqtok.models.audio import read_waveform


@pytest.fixture(scope="module")
def tok():
    return AutoVQTokenizer.from_pretrained("vqtok/rvq-codec-tiny", device="cpu")


def reconstructions(tok, levels: list[int]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    sound = read_waveform(SAMPLES / "speech.flac", 16_000, 1)
    back = {}
    for number in levels:
        tokens = tok.tokenize([SAMPLES / "speech.flac"], num_codebooks=number)
        waveform, rate = tok.detokenize(tokens)[0]
        assert (rate, waveform.shape) == (16_000, tuple(sound.shape))
        back[number] = torch.from_numpy(waveform)
    return sound, back


def test_the_bundled_codec_is_16_khz_at_about_6_kbit_a_second(tok):
    assert tok.sample_rate_hz == 16_000
    assert tok.codebook_sizes == (1024,) * 8
    assert 5_500 < tok.rate.bits < 6_500
    assert [tok.codebooks_for(rate) for rate in (1_500, 3_000, 6_000)] == [2, 4, 8]


def test_every_level_of_the_bundled_codec_brings_a_sentence_nearer(tok):
    sound, back = reconstructions(tok, [1, 2, 3, 4, 5, 6, 7, 8])

    mel = [mel_distance(y, sound, 16_000).item() for y in back.values()]
    following = [si_sdr(y, sound).item() for y in back.values()]

    assert mel == sorted(mel, reverse=True)
    assert following == sorted(following)
    # a band, not a number: six seconds are no benchmark
    assert 0.2 < mel[-1] < 0.36
    assert following[-1] > 4


def test_a_sentence_is_understood_at_6_kbit_a_second(tok):
    pytest.importorskip("pystoi")
    sound, back = reconstructions(tok, [8])

    assert stoi(back[8], sound, 16_000).item() > 0.78
