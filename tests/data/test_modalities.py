"""Sounds, texts and vectors go the way of images: files and tables to codes and back."""

import io
import json
import math

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fake_others import FakeAudio, FakeText, FakeVectors, sound
from tests.data.rows import rows_of
from vqtok.data import decode_dataset, load_codes, tokenize_dataset
from vqtok.data.sources import open_source
from vqtok.errors import ConfigError, InputError


def vectors(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


@pytest.fixture
def sounds(tmp_path):
    """Files of a folder, and the status that each must get."""
    nan = io.BytesIO()
    soundfile.write(nan, np.array([0, np.nan]), 8000, format="WAV", subtype="FLOAT")
    files = {
        "a.wav": (sound(0), "ok"),
        "b.FLAC": (sound(1, form="FLAC"), "ok"),
        "c/d.ogg": (sound(2, form="OGG"), "ok"),
        "e.mp3": (sound(3, form="MP3"), "ok"),
        "f.opus": (sound(4, form="OGG", subtype="OPUS"), "ok"),
        "g_truncated.flac": (sound(5, form="FLAC")[:30], "decode_error"),
        "h_empty.wav": (b"", "empty"),
        "i_silent.wav": (sound(0, samples=0), "empty"),
        "j_nan.wav": (nan.getvalue(), "nonfinite"),
        "k_rate.wav": (sound(0, rate=7999), "decode_error"),
    }
    for name, (data, _) in files.items():
        (tmp_path / "sounds" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sounds" / name).write_bytes(data)
    (tmp_path / "sounds/cover.png").write_bytes(b"no sound")
    return tmp_path / "sounds", {name: status for name, (_, status) in files.items()}


@pytest.fixture
def texts(tmp_path):
    files = {
        "a.txt": ("Hello, wörld €\r\n\x00".encode(), "ok"),
        "b_latin.txt": (b"caf\xe9", "decode_error"),
        "c_empty.txt": (b"", "ok"),
        "d/e.txt": ("\ufeffQuite Quick ".encode() * 50, "ok"),
    }
    for name, (data, _) in files.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_bytes(data)
    (tmp_path / "texts/README.md").write_text("not a text of the data set")
    return tmp_path / "texts", {name: status for name, (_, status) in files.items()}


def test_sounds_of_a_folder_become_rows_good_and_bad(sounds, tmp_path):
    folder, statuses = sounds

    report = tokenize_dataset(folder, tmp_path / "out", FakeAudio(), unit_rows=4)

    rows = {row["src"]: row for row in rows_of(tmp_path / "out")}
    assert list(rows) == sorted(statuses)
    assert {name: row["status"] for name, row in rows.items()} == statuses
    assert report.ignored == 1
    (tokens,) = FakeAudio().tokenize([(folder / "a.wav").read_bytes()])
    assert rows["a.wav"]["codes"] == tokens.codes.flatten().tolist()
    assert rows["a.wav"]["shape"] == [2, 250]
    assert json.loads(rows["a.wav"]["meta"]) == {"samples": 2000}


@pytest.mark.parametrize("file_format", ["wav", "flac"])
def test_decoded_sounds_are_those_of_detokenize_to_16_bits(sounds, tmp_path, file_format):
    folder, _ = sounds
    tokenize_dataset(folder, tmp_path / "codes", FakeAudio())

    report = decode_dataset(
        tmp_path / "codes", tmp_path / "back", FakeAudio(), file_format=file_format
    )

    assert (report.files, report.skipped) == (5, 5)
    for name in ("a.wav", "c/d.ogg"):
        tokenizer = FakeAudio()
        ((wave, rate),) = tokenizer.detokenize(tokenizer.tokenize([(folder / name).read_bytes()]))
        path = (tmp_path / "back" / name).with_suffix(f".{file_format}")
        found, found_rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert found_rate == rate == 8000
        assert np.abs(found.T - wave.clip(-1, 1)).max() < 1e-4


def test_rows_of_load_codes_are_what_detokenize_takes(sounds, tmp_path):
    tokenize_dataset(sounds[0], tmp_path / "codes", FakeAudio())

    row = load_codes(tmp_path / "codes")[0]

    ((wave, _),) = FakeAudio().detokenize([row])
    assert wave.shape == (1, 2000)


def test_texts_come_back_byte_by_byte(texts, tmp_path):
    folder, statuses = texts

    tokenize_dataset(folder, tmp_path / "codes", FakeText(), batch_size=2)
    report = decode_dataset(tmp_path / "codes", tmp_path / "back", FakeText())

    rows = {row["src"]: row for row in rows_of(tmp_path / "codes")}
    assert {name: row["status"] for name, row in rows.items()} == statuses
    assert rows["c_empty.txt"]["codes"] == []
    assert (report.files, report.skipped) == (3, 1)
    for name, status in statuses.items():
        back = tmp_path / "back" / name
        assert back.exists() == (status == "ok")
        assert status != "ok" or back.read_bytes() == (folder / name).read_bytes()


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_any_string_of_a_table_comes_back(tmp_path_factory, strings):
    folder = tmp_path_factory.mktemp("strings")
    strings = [text.encode("utf-8", "replace").decode() for text in strings]
    pq.write_table(pa.table({"text": strings}), folder / "t.parquet")

    tokenize_dataset(folder / "t.parquet", folder / "codes", FakeText())

    rows = load_codes(folder / "codes")
    assert FakeText().detokenize(list(rows)) == strings


def test_vectors_of_arrays_come_back_as_one_array_a_file(tmp_path):
    source = tmp_path / "vectors"
    (source / "sub").mkdir(parents=True)
    np.save(source / "a.npy", vectors(300))
    np.savez(source / "b.npz", embeddings=vectors(5, 1), labels=np.arange(5))
    np.save(source / "one.npy", vectors(1, 2)[0])
    broken = vectors(4, 3).astype(np.float64)
    broken[2, 1] = np.nan
    np.save(source / "sub/a.npy", broken)
    np.save(source / "wide.npy", np.zeros((2, 5)))
    np.save(source / "none.npy", np.zeros((0, 4)))
    (source / "z.npy").write_bytes(b"\x93NUMPY no")
    np.save(source / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)

    report = tokenize_dataset(source, tmp_path / "codes", FakeVectors(), unit_rows=90)
    decode_dataset(tmp_path / "codes", tmp_path / "back", FakeVectors())

    assert report.status == {"decode_error": 4, "nonfinite": 1, "ok": 309}
    places = [(row["src"], row["src_row"]) for row in rows_of(tmp_path / "codes")]
    assert places == sorted(places)
    found = sorted(str(p.relative_to(tmp_path / "back")) for p in tmp_path.rglob("back/**/*.npy"))
    assert found == ["a.npy", "b.npy", "one.npy", "sub/a.npy"]
    assert np.abs(np.load(tmp_path / "back/a.npy") - vectors(300).clip(-4, 4)).max() <= 4 / 255
    back = np.load(tmp_path / "back/sub/a.npy")
    assert back.shape == (4, 4)
    assert np.isnan(back).all(1).tolist() == [False, False, True, False]


def test_the_same_vector_has_the_same_hash_in_every_format(tmp_path):
    array = vectors(7).astype(np.float16)
    np.save(tmp_path / "a.npy", array)
    listed = pa.array(array.astype(np.float32).tolist(), pa.list_(pa.float32()))
    fixed = pa.array(array.astype(np.float64).tolist(), pa.list_(pa.float64(), 4))
    pq.write_table(pa.table({"embedding": listed}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"vec": fixed, "n": range(7)}), tmp_path / "c.parquet")

    for name in ("a.npy", "b.parquet", "c.parquet"):
        out = tmp_path / f"{name}-out"
        tokenize_dataset(tmp_path / name, out, FakeVectors(), batch_size=3, content_hash=True)

    runs = [rows_of(tmp_path / f"{name}-out") for name in ("a.npy", "b.parquet", "c.parquet")]
    hashes = [[row["content_hash"] for row in rows] for rows in runs]
    codes = [[row["codes"] for row in rows] for rows in runs]
    assert hashes[0] == hashes[1] == hashes[2]
    assert codes[0] == codes[1] == codes[2]


def test_audio_columns_as_hugging_face_writes_them(tmp_path):
    string, number = datasets.Value("string"), datasets.Value("int8")
    features = datasets.Features({"audio": datasets.Audio(), "text": string, "n": number})
    rows = {
        "audio": [{"bytes": sound(i, form="FLAC"), "path": f"{i}.flac"} for i in range(3)]
        + [{"bytes": None, "path": "elsewhere.wav"}, None],
        "text": ["one", "two", None, "four", ""],
        "n": [0, 1, 2, 3, 4],
    }
    table = pa.Table.from_pydict(rows, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "t.parquet")

    tokenize_dataset(tmp_path / "t.parquet", tmp_path / "a", FakeAudio(), keep=["text"])
    tokenize_dataset(tmp_path / "t.parquet", tmp_path / "t", FakeText(), keep=["n"])

    sounds, texts = rows_of(tmp_path / "a"), rows_of(tmp_path / "t")
    assert [row["status"] for row in sounds] == ["ok"] * 3 + ["empty"] * 2
    assert [row["text"] for row in sounds] == rows["text"]
    assert [row["status"] for row in texts] == ["ok", "ok", "empty", "ok", "ok"]
    assert [row["n"] for row in texts] == rows["n"]


def test_a_column_of_another_kind_is_refused_by_name(tmp_path):
    columns = {"a": ["x"], "b": ["y"], "label": [1], "ids": [[1, 2]]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")

    with pytest.raises(InputError, match=r"one column of text inputs.*strings.*--column"):
        open_source(tmp_path / "t.parquet", "text")
    with pytest.raises(InputError, match="lists of floats"):
        open_source(tmp_path / "t.parquet", "embedding", column="ids")
    assert open_source(tmp_path / "t.parquet", "text", column="b").column == "b"


def test_an_array_of_an_npz_file_is_found_or_named(tmp_path):
    np.savez(tmp_path / "v.npz", left=vectors(2), right=vectors(3))

    for name, rows in (("left", 2), ("right", 3)):
        out = tmp_path / name
        tokenize_dataset(tmp_path / "v.npz", out, FakeVectors(), column=name)
        assert len(rows_of(out)) == rows
    report = tokenize_dataset(tmp_path / "v.npz", tmp_path / "none", FakeVectors())

    (row,) = rows_of(tmp_path / "none")
    assert report.bad == 1
    assert "--column" in row["error"]
    np.save(tmp_path / "w.npy", vectors(1))
    with pytest.raises(ConfigError, match="single array"):
        open_source(tmp_path / "w.npy", "embedding", column="left")


class Noise(FakeAudio):
    """Codes that no compressor can shrink, and a meta of a different length each."""

    def _one(self, item):
        rng = np.random.default_rng(len(item))
        samples = int(rng.integers(2000, 3000))
        return torch.from_numpy(rng.integers(0, 1024, (2, samples // 8))), {"samples": samples}


class NoisyText(FakeText):
    codebook_sizes = (4096, 4096)
    code_bits = (12.0, 12.0)

    def _one(self, item):
        rng = np.random.default_rng(len(item))
        escapes = "".join(rng.choice(list("ABCDEFGHijklmno/+"), 12))
        meta = {"bytes": 1600, "crc32": int(rng.integers(1 << 32)), "escapes": escapes}
        return torch.from_numpy(rng.integers(0, 4096, (2, 400))), meta


@pytest.mark.parametrize("tokenizer", [Noise(), NoisyText()])
def test_a_token_costs_its_entropy_and_little_more(tmp_path, tokenizer):
    cells = ["x" * (i + 1) for i in range(800)]
    column = pa.array([c.encode() for c in cells], pa.binary())
    column = column if tokenizer.modality == "audio" else pa.array(cells)
    pq.write_table(pa.table({tokenizer.modality: column}), tmp_path / "s.parquet")

    report = tokenize_dataset(tmp_path / "s.parquet", tmp_path / "out", tokenizer)

    assert report.bytes / report.tokens <= 1.15 * math.log2(tokenizer.codebook_sizes[0]) / 8


def test_tokens_of_a_modality_nobody_knows_are_refused(tmp_path):
    tokenizer = FakeAudio()
    tokenizer.modality = "smell"

    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="smell"):
        tokenize_dataset(tmp_path / "in", tmp_path / "out", tokenizer)


@pytest.mark.parametrize(("tokenizer", "wrong"), [(FakeAudio(), "mp3"), (FakeText(), "png")])
def test_a_format_that_is_not_written_is_refused(sounds, texts, tmp_path, tokenizer, wrong):
    folder = {"audio": sounds, "text": texts}[tokenizer.modality][0]
    tokenize_dataset(folder, tmp_path / "codes", tokenizer)

    with pytest.raises(ConfigError, match=wrong):
        decode_dataset(tmp_path / "codes", tmp_path / "back", tokenizer, file_format=wrong)
