"""Sounds of every kind come out as one array, and what is no sound says so."""

import io

import numpy as np
import pytest
import soundfile
import torch

from vqtok.errors import InputError
from vqtok.models import audio
from vqtok.models.audio import (
    read_audio,
    read_blocks,
    read_waveform,
    resample,
    resample_pieces,
)

RATE = 8000


def tone(channels: int = 1, samples: int = 800) -> np.ndarray:
    time = np.arange(samples) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 200 * (c + 1) * time) for c in range(channels)])


def encoded(waveform: np.ndarray, kind: str, subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, waveform.T, RATE, format=kind, subtype=subtype)
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_carrier_of_a_sound_gives_the_same_array(channels, tmp_path):
    waveform = tone(channels).astype(np.float32)
    content = encoded(waveform, "WAV", "FLOAT")
    path = tmp_path / "sound.wav"
    path.write_bytes(content)
    carriers = [
        path,
        str(path),
        content,
        bytearray(content),
        io.BytesIO(content),
        {"bytes": content, "path": "elsewhere.wav"},
        {"bytes": None, "path": str(path)},
        {"array": waveform, "sampling_rate": RATE, "path": None},
        (waveform, RATE),
        (torch.from_numpy(waveform), RATE),
        (waveform.astype(np.float64), RATE),
        (waveform.tolist(), float(RATE)),
    ]

    for carrier in carriers:
        read, rate = read_audio(carrier)
        assert rate == RATE
        assert read.dtype == np.float32
        assert np.array_equal(read, waveform)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_format_is_read_with_its_channels_first(kind):
    waveform = tone(2, 8000)

    read, rate = read_audio(encoded(waveform, kind))

    assert rate == RATE
    assert read.shape[0] == 2
    assert abs(read.shape[1] - 8000) < 2500
    middle = slice(2000, 5000)
    spectrum = np.abs(np.fft.rfft(read[:, middle], axis=1))
    assert spectrum.argmax(1).tolist() == [200 * 3000 // RATE, 400 * 3000 // RATE]


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.int16, 2**15), (np.int32, 2**31), (np.float16, 1)]
)
def test_numbers_become_floats_over_their_range(dtype, scale):
    waveform = (tone() * min(scale, 2**31 - 1)).astype(dtype)

    read, _ = read_audio((waveform, RATE))

    assert np.abs(read - tone()).max() < 1e-3
    if scale > 1:
        extremes = np.array([np.iinfo(dtype).min, 0], dtype)
        assert read_audio((extremes, RATE))[0].tolist() == [[-1.0, 0.0]]


def test_eight_bits_are_centred_at_128():
    read, _ = read_audio((np.array([0, 128, 255], np.uint8), RATE))

    assert read.tolist() == [[-1.0, 0.0, 127 / 128]]


def test_the_callers_array_is_not_shared():
    waveform = tone().astype(np.float32)

    read_audio((waveform, RATE))[0][:] = 9

    assert waveform.max() < 1


def test_nan_and_infinity_are_refused(tmp_path):
    waveform = tone().astype(np.float32)
    waveform[0, 3] = np.nan
    (tmp_path / "nan.wav").write_bytes(encoded(waveform, "WAV", "FLOAT"))

    for item, name in [(tmp_path / "nan.wav", r"nan\.wav"), ((waveform, RATE), "this sound")]:
        with pytest.raises(InputError, match=f"{name} holds NaN") as caught:
            read_audio(item)
        assert caught.value.status == "nonfinite"
    with pytest.raises(InputError, match="NaN or infinity"):
        read_audio((np.full(4, 1e200), RATE))


def test_nothing_is_no_sound(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "silent.wav").write_bytes(encoded(np.zeros((1, 0)), "WAV"))

    for item in (tmp_path / "empty.wav", tmp_path / "silent.wav", b"", (np.zeros(0), RATE)):
        with pytest.raises(InputError, match=r"empty|zero length") as caught:
            read_audio(item)
        assert caught.value.status == "empty"


def test_what_cannot_be_read_is_named(tmp_path):
    whole = encoded(tone(1, 8000), "FLAC")
    (tmp_path / "text.wav").write_text("no sound at all")
    (tmp_path / "cut.flac").write_bytes(whole[:30])

    for name in ("text.wav", "cut.flac", "missing.wav"):
        with pytest.raises(InputError, match=name) as caught:
            read_audio(tmp_path / name)
        assert caught.value.status == "decode_error"
    with pytest.raises(InputError, match="cannot be opened"):
        read_audio(tmp_path)


@pytest.mark.parametrize(
    "item",
    [
        np.zeros(8),
        None,
        7,
        {"path": None},
        {"array": np.zeros(8)},
        (np.zeros(8), 0),
        (np.zeros(8), 8000.5),
        (np.zeros(8), "8000"),
        (np.zeros(8), True),
        (np.zeros((1, 1, 8)), RATE),
        (np.zeros((8000, 2)), RATE),
        (np.zeros(8, np.int64), RATE),
        (np.zeros(8, np.complex64), RATE),
        ("text", RATE),
        ([[1.0, 2.0], [3.0]], RATE),
    ],
)
def test_what_is_no_sound_is_refused(item):
    with pytest.raises(InputError):
        read_audio(item)


def test_the_number_of_channels_must_fit(tmp_path):
    (tmp_path / "two.wav").write_bytes(encoded(tone(2), "WAV"))

    with pytest.raises(InputError, match=r"two\.wav has 2 channels, this tokenizer takes 1"):
        read_waveform(tmp_path / "two.wav", RATE, channels=1)
    assert read_waveform(tmp_path / "two.wav", RATE, channels=2).shape == (2, 800)


@pytest.mark.parametrize("rate", [4000, 11_025, 16_000, 22_050, 44_100, 48_000, 192_000])
def test_a_usual_rate_is_resampled_as_torchaudio_does(rate):
    from torchaudio.functional import resample as sinc_resample

    waveform = torch.from_numpy(tone(2)).float()

    for target in (16_000, 24_000, 44_100):
        assert torch.equal(resample(waveform, rate, target), sinc_resample(waveform, rate, target))


def test_an_odd_rate_costs_little_memory_and_keeps_the_pitch():
    samples = 24_000
    waveform = torch.sin(2 * torch.pi * 440 * torch.arange(samples) / 44_101)[None]

    resampled = resample(waveform, 44_101, 24_000)

    assert abs(resampled.shape[1] - samples * 24_000 / 44_101) <= 1
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(resampled.shape[1]) / 24_000)
    middle = slice(200, -200)
    assert (resampled[0, middle] - expected[middle]).abs().max() < 2e-2


@pytest.mark.parametrize("rate", [4_000, 11_025, 16_000, 24_000, 44_100, 192_000])
@pytest.mark.parametrize("piece", [7, 1_000, 4_096])
def test_a_sound_resampled_piece_by_piece_is_the_sound_resampled_whole(rate, piece):
    waveform = torch.randn(2, 20_000, generator=torch.manual_seed(0)) * 0.1
    pieces = torch.cat(list(resample_pieces(waveform.split(piece, -1), rate, 16_000)), -1)
    torch.testing.assert_close(pieces, resample(waveform, rate, 16_000), rtol=0, atol=2e-6)


def test_blocks_of_a_file_are_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 1_000)
    waveform = torch.randn(1, 12_345, generator=torch.manual_seed(0)) * 0.1
    soundfile.write(tmp_path / "a.wav", waveform[0].numpy(), 24_000, subtype="FLOAT")
    blocks = list(read_blocks(tmp_path / "a.wav", 16_000, 1))
    assert len(blocks) > 10
    expected = resample(waveform, 24_000, 16_000)
    torch.testing.assert_close(torch.cat(blocks, -1), expected, rtol=0, atol=2e-6)
    assert torch.equal(read_waveform(tmp_path / "a.wav", 16_000, 1), torch.cat(blocks, -1))


def test_nan_in_a_late_block_is_found(monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 100)
    waveform = np.zeros((1, 1_000), np.float32)
    waveform[0, 950] = np.nan
    with pytest.raises(InputError, match="NaN"):
        list(read_blocks((waveform, 16_000), 16_000, 1))


@pytest.mark.parametrize("carrier", ["path", "bytes"])
def test_a_wav_that_was_cut_off_is_refused(tmp_path, carrier):
    content = encoded(tone(), "WAV")
    (tmp_path / "cut.wav").write_bytes(content[:600])
    item = tmp_path / "cut.wav" if carrier == "path" else content[:600]
    with pytest.raises(InputError, match="cut off"):
        read_audio(item)


def test_a_wav_from_a_pipe_is_read_though_its_header_knows_no_length():
    content = bytearray(encoded(tone(), "WAV"))
    content[4:8] = b"\xff\xff\xff\xff"
    assert read_audio(bytes(content))[0].shape == (1, 800)
