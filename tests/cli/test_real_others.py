"""The command line with real tokenizers of sounds and vectors, loaded from folders."""

import json

import numpy as np
import pytest
import soundfile
import transformers
from typer.testing import CliRunner

from tests.models.adapters import natives
from vqtok import AutoVQTokenizer, EmbeddingVQConfig, EmbeddingVQModel
from vqtok.cli import app
from vqtok.data import load_codes


def run(*arguments) -> dict:
    result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json")])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def stereo_codec(tmp_path_factory):
    """EnCodec in chunks, whose loudness is in the meta of every sound."""
    model = natives.encodec(stereo=True)
    extractor = transformers.EncodecFeatureExtractor(
        feature_size=2, sampling_rate=48_000, chunk_length_s=0.1, overlap=0.01
    )
    return natives.save(model, tmp_path_factory.mktemp("codec"), extractor)


def test_stereo_sounds_with_scales_go_through_codes_and_back(stereo_codec, tmp_path):
    (tmp_path / "sounds").mkdir()
    rng = np.random.default_rng(0)
    for index, samples in enumerate([9000, 14_001]):
        wave = rng.standard_normal((samples, 2)) * 0.1 * (index + 1)
        soundfile.write(tmp_path / f"sounds/{index}.flac", wave, 48_000)

    run("tokenize", tmp_path / "sounds", "-t", stereo_codec, "-o", tmp_path / "codes")
    run("decode", tmp_path / "codes", "-o", tmp_path / "back")
    measured = run("evaluate", "-t", stereo_codec, "--data", tmp_path / "sounds", "--no-classical")
    info = run("info", stereo_codec)

    tokenizer = AutoVQTokenizer.from_pretrained(stereo_codec, device="cpu")
    tokens = tokenizer.tokenize(sorted((tmp_path / "sounds").iterdir()))
    waves = tokenizer.detokenize(tokens)
    for row, own, (wave, rate) in zip(load_codes(tmp_path / "codes"), tokens, waves, strict=True):
        assert row["codes"] == own.codes.flatten().tolist()
        assert json.loads(row["meta"])["scales"] == own.meta["scales"]
        path = (tmp_path / "back" / row["src"]).with_suffix(".wav")
        found, found_rate = soundfile.read(path, dtype="float32")
        assert found_rate == rate == 48_000
        assert np.abs(found.T - wave.clip(-1, 1)).max() < 1e-4
    assert measured["sounds"] == 2
    assert measured["seconds"] == pytest.approx(23_001 / 48_000)
    assert info["rate"]["per"] == "second"


def test_vectors_go_through_codes_and_back(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    options = {"kind": "residual", "codebook_size": 16, "num_codebooks": 3}
    tokenizer = EmbeddingVQModel(EmbeddingVQConfig(embedding_dim=8, quantizer_config=options))
    tokenizer.fit(vectors).save_pretrained(tmp_path / "tokenizer")
    np.save(tmp_path / "vectors.npy", vectors)
    source = tmp_path / "vectors.npy"

    run("tokenize", source, "-t", tmp_path / "tokenizer", "-o", tmp_path / "codes")
    run("decode", tmp_path / "codes", "-o", tmp_path / "back")
    whole = run("evaluate", "-t", tmp_path / "tokenizer", "--data", source)
    first = run("evaluate", "-t", tmp_path / "tokenizer", "--data", source, "--num-codebooks", 1)

    tokens = tokenizer.tokenize(list(vectors))
    rows = load_codes(tmp_path / "codes")
    assert rows["codes"] == [own.codes.flatten().tolist() for own in tokens]
    back = np.load(tmp_path / "back/vectors.npy")
    assert np.array_equal(back, np.stack(tokenizer.detokenize(list(rows))))
    assert whole["mse"] == pytest.approx(((vectors - back) ** 2).mean(), rel=1e-5)
    assert (whole["bits_per_vector"], first["bits_per_vector"]) == (12, 4)
    assert first["mse"] > whole["mse"]
