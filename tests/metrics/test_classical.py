"""Classical codecs: within their bytes, and sample by sample under what went in."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics import classical_vectors as vectors
from vqtok.metrics.classical_audio import opus_round_trip, packet_bytes, why_no_opus
from vqtok.metrics.classical_image import decode, encode_within
from vqtok.metrics.classical_text import compressed_bytes

opus = pytest.mark.skipif(bool(why_no_opus()), reason="there is no ffmpeg with libopus here")


def gradient(side: int = 96) -> Image.Image:
    return Image.merge("RGB", [Image.linear_gradient("L").resize((side, side))] * 3)


@pytest.mark.parametrize("codec", ["JPEG", "WEBP"])
def test_the_best_file_within_the_bytes_is_found(codec):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((96, 96))
    sizes = [len(encode_within(image, codec, 10**9))]
    for limit in (sizes[0] - 1, sizes[0] * 2 // 3, sizes[0] // 2):
        sizes.append(len(encode_within(image, codec, limit)))
        assert sizes[-1] <= limit

    assert sizes == sorted(sizes, reverse=True)
    assert encode_within(gradient(), codec, 10) is None
    with Image.open(io.BytesIO(encode_within(gradient(), codec, 10**9))) as image:
        assert image.format == codec
    assert decode(encode_within(gradient(), codec, 10**9)).size == (96, 96)


def test_a_codec_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="BMP"):
        encode_within(gradient(), "BMP", 100)
    with pytest.raises(ConfigError, match="zip"):
        compressed_bytes(b"x", "zip")


@opus
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_opus_comes_back_in_place_and_at_the_rate_asked_for(rate, channels):
    rng = np.random.default_rng(0)
    sound = rng.standard_normal((channels, rate)).astype(np.float32) * 0.1
    sound = np.cumsum(sound, 1) - np.cumsum(np.roll(sound, 40, 1), 1)  # mostly low frequencies
    sound = sound / np.abs(sound).max() / 2

    back, size = opus_round_trip(sound, rate, 64_000)

    spectra = np.fft.rfft(sound[0], 2 * rate) * np.conj(np.fft.rfft(back[0], 2 * rate))
    assert np.fft.irfft(spectra).argmax() == 0
    assert back.shape == sound.shape
    assert 8 * size == pytest.approx(64_000, rel=0.05)


@opus
def test_the_shortest_sound_comes_back():
    back, size = opus_round_trip(np.full((1, 1), 0.5, np.float32), 24_000, 6000)

    assert back.shape == (1, 1)
    assert size > 0


def test_more_than_two_channels_are_refused():
    with pytest.raises((ShapeError, ConfigError)):
        opus_round_trip(np.zeros((3, 100), np.float32), 16_000, 6000)


def test_packets_are_counted_without_their_pages():
    def page(payload: bytes) -> bytes:
        lacing = [255] * (len(payload) // 255) + [len(payload) % 255]
        return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + payload

    ogg = page(b"OpusHead") + page(b"OpusTags") + page(b"x" * 600) + page(b"y" * 5)

    assert packet_bytes(ogg) == 605


def test_half_precision_and_bytes_keep_what_they_should():
    rows = torch.randn(50, 12)

    half, half_bits = vectors.float16_round_trip(rows)
    whole, whole_bits = vectors.int8_round_trip(torch.cat([rows, torch.zeros(1, 12)]))

    assert (half_bits, whole_bits) == (192, 128)
    assert (half - rows).abs().max() < 2e-3
    assert ((whole[:-1] - rows).abs() <= rows.abs().amax(1, keepdim=True) / 253).all()
    assert torch.equal(whole[-1], torch.zeros(12))


@pytest.mark.parametrize(
    ("width", "bits", "parts"), [(32, 32, 4), (30, 32, 3), (7, 200, 7), (7, 8, 1), (8, 4, 0)]
)
def test_a_product_quantizer_takes_no_more_bits(width, bits, parts):
    assert vectors.pq_parts(width, bits) == parts


def test_a_product_quantizer_is_fitted_where_there_are_enough_vectors():
    pytest.importorskip("faiss")
    rows = torch.randn(10_000, 4)

    back, bits = vectors.pq_round_trip(rows, 20)

    assert bits == 16
    assert (back - rows).square().mean() < 0.1
    with pytest.raises(ConfigError, match="too few vectors"):
        vectors.pq_round_trip(rows[:100], 20)
