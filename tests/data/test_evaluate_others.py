"""Evaluation of sounds, texts and vectors, and the classical codecs beside every modality."""

import json
import math

import numpy as np
import pytest
import torch

import vqtok.metrics.classical_audio
from tests.data.conftest import png
from tests.data.fake_others import FakeAudio, FakeText, FakeVectors, sound
from vqtok.data import evaluate_dataset
from vqtok.errors import ConfigError, InputError
from vqtok.metrics.audio import mel_distance, si_sdr
from vqtok.metrics.classical_audio import why_no_opus
from vqtok.metrics.classical_text import compressed_bytes

opus = pytest.mark.skipif(bool(why_no_opus()), reason="there is no ffmpeg with libopus here")


@pytest.fixture
def sounds(tmp_path):
    (tmp_path / "s").mkdir()
    for index in range(2):
        (tmp_path / f"s/{index}.wav").write_bytes(sound(index, samples=4000 + 1001 * index))
    (tmp_path / "s/bad.wav").write_bytes(b"RIFF")
    return tmp_path / "s"


def test_sounds_are_measured_at_the_rate_of_the_tokenizer(sounds):
    report = evaluate_dataset(FakeAudio(), sounds, classical=False)

    tokenizer, distances, ratios, codes = FakeAudio(), [], [], 0
    for index in range(2):
        data = (sounds / f"{index}.wav").read_bytes()
        (tokens,) = tokenizer.tokenize([data])
        ((back, rate),) = tokenizer.detokenize([tokens])
        before, after = tokenizer._read(data)[0], torch.from_numpy(back)
        distances.append(mel_distance(after, before, rate).item())
        ratios.append(si_sdr(after, before).item())
        codes += tokens.codes.numel()
    assert (report.sounds, report.skipped, report.classical) == (2, 1, [])
    assert report.seconds == pytest.approx((4000 + 5001) / 8000)
    assert report.bits_per_second == pytest.approx(10 * codes / report.seconds)
    assert report.mel_distance == pytest.approx(np.mean(distances))
    assert report.si_sdr == pytest.approx(np.mean(ratios))


def test_fewer_levels_of_a_sound_cost_less_and_keep_less(sounds):
    both = evaluate_dataset(FakeAudio(), sounds, classical=False)
    one = evaluate_dataset(FakeAudio(), sounds, classical=False, num_codebooks=1)

    assert one.kilobits_per_second == pytest.approx(both.kilobits_per_second / 2)
    assert one.si_sdr < both.si_sdr
    assert len(one.codebooks) == 1


@opus
def test_opus_stands_beside_at_the_bit_rate_of_the_codes(sounds):
    report = evaluate_dataset(FakeAudio(), sounds)

    (row,) = report.classical
    assert (row["codec"], row["items"], row["failed"]) == ("Opus", 2, 0)
    assert row["codec_values"]["kilobits_per_second"] == pytest.approx(20, rel=0.05)
    assert row["codec_values"]["si_sdr"] > 10
    assert row["tokenizer_values"]["mel_distance"] == pytest.approx(report.mel_distance)


def test_a_machine_without_ffmpeg_says_so(sounds, monkeypatch):
    monkeypatch.setattr(vqtok.metrics.classical_audio.shutil, "which", lambda name: None)

    (row,) = evaluate_dataset(FakeAudio(), sounds).classical

    assert "not installed" in row["note"]
    assert row["items"] == 0


def test_texts_count_codes_escapes_and_right_bytes(tmp_path):
    texts = {"a.txt": "a Quick fox Quits", "b.txt": "", "c.txt": "é" * 400}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    report = evaluate_dataset(FakeText(), tmp_path)

    data = [text.encode() for text in texts.values()]
    size = sum(map(len, data))
    metas = [tokens.meta for tokens in FakeText().tokenize(list(texts.values()))]
    escapes = sum(8 * len(json.dumps(meta)) for meta in metas)
    assert (report.texts, report.bytes) == (3, size)
    assert report.bits_per_byte == 8
    assert report.bits_per_byte_with_escapes == pytest.approx(8 + escapes / size)
    assert report.byte_accuracy == pytest.approx(1 - 2 / size)
    assert report.exact == 1
    for row in report.classical:
        packed = sum(compressed_bytes(text, row["codec"]) for text in data)
        assert row["codec_values"]["bits_per_byte"] == pytest.approx(8 * packed / size)
        assert row["items"] == 3


def test_vectors_are_measured_with_their_neighbours(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", vectors)
    np.save(tmp_path / "b.npy", np.full((1, 4), np.nan))

    report = evaluate_dataset(FakeVectors(), tmp_path)

    tokenizer = FakeVectors()
    back = np.stack(tokenizer.detokenize(tokenizer.tokenize(list(vectors))))
    assert (report.vectors, report.skipped, report.bits_per_vector) == (60, 1, 32)
    assert report.mse == pytest.approx(((vectors - back) ** 2).mean())
    assert report.cosine > 0.999
    assert report.recall_at_10 > 0.9
    notes = {row["codec"]: row["note"] for row in report.classical}
    assert set(notes) == {"float16", "int8", "faiss PQ"}
    assert "too few vectors" in notes["faiss PQ"] or "not installed" in notes["faiss PQ"]


def test_jpeg_and_webp_take_no_more_bytes_than_the_codes(tmp_path, tokenizer):
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(png(index, 640, 480))
    (tmp_path / "small.png").write_bytes(png(3, 16, 16))

    report = evaluate_dataset(tokenizer, tmp_path)

    for row in report.classical:
        assert row["items"] + row["failed"] == 3
        assert row["failed"] >= 1  # no JPEG has 6 bytes
        if row["items"]:
            assert row["codec_values"]["bits_per_pixel"] <= 12 / 64
            assert row["tokenizer_values"]["psnr"] > 20


@pytest.mark.parametrize("tokenizer", [FakeAudio(), FakeText(), FakeVectors()])
def test_size_is_for_images(tmp_path, tokenizer):
    (tmp_path / "x.wav").write_bytes(sound(0))
    (tmp_path / "x.txt").write_text("x")
    np.save(tmp_path / "x.npy", np.zeros(4))

    with pytest.raises(ConfigError, match="size cuts images"):
        evaluate_dataset(tokenizer, tmp_path, size=8)


def test_nothing_to_measure_is_an_error(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"")

    with pytest.raises(InputError, match="none of the 1 sounds"):
        evaluate_dataset(FakeAudio(), tmp_path)


def test_a_report_is_json(tmp_path):
    (tmp_path / "x.txt").write_text("text")

    values = evaluate_dataset(FakeText(), tmp_path).to_dict()

    assert json.loads(json.dumps(values)) == values
    assert values["modality"] == "text"
    assert math.isclose(values["codebooks"][0]["usage"], 3 / 256)


def test_the_mean_rate_beside_a_codec_is_that_of_all_bits_over_all_seconds():
    from vqtok.data.meters import Beside

    beside = Beside("codec")
    beside.add({"kilobits_per_second": 100.0, "mel_distance": 1.0}, {}, amount=0.1)
    beside.add({"kilobits_per_second": 1.0, "mel_distance": 3.0}, {}, amount=9.9)

    assert beside.row()["codec_values"] == pytest.approx(
        {"kilobits_per_second": 1.99, "mel_distance": 2.0}
    )
