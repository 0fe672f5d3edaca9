"""Every benchmark runs in a small case; its numbers are for quiet machines, and not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(REPOSITORY / script), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("level", ["encoders", "blocks"])
def test_speed_beside_a_vit_and_mamba2(level, tmp_path):
    small = ["--width", "64", "--rounds", "1", "--lengths", "64", "256", "--threads", "1"]

    run("benchmarks/vim_vq_speed.py", level, *small, "--json", str(tmp_path / "rows.json"))

    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["tokens"] for row in rows] == [64, 256]
    assert all(row["ours_over_vit"] > 0 and row["ours_over_mamba2"] > 0 for row in rows)


def test_nearest_code_beside_its_peers():
    small = ["--rows", "512", "--codes", "256", "--widths", "8", "--rounds", "1", "--threads", "1"]

    report = run("benchmarks/nearest_code.py", *small)

    assert all(f"{name} " in report for name in ("op", "tiles", "reference", "peer"))


def test_the_codec_beside_encodec(tmp_path):
    small = ["--small", "--seconds", "1", "--rounds", "1", "--threads", "1"]

    run("benchmarks/rvq_codec_speed.py", "speed", *small, "--json", str(tmp_path / "rows.json"))

    rows = json.loads((tmp_path / "rows.json").read_text())
    tasks = ["encoder", "encode", "decode", "tokenize", "detokenize"]
    assert [row["task"] for row in rows] == tasks
    assert all(row["ours_over_encodec"] > 0 for row in rows)


def test_peak_memory_of_the_codec(tmp_path):
    small = ["--small", "--back", "--hours", "0.02", "--json", str(tmp_path / "rows.json")]

    run("benchmarks/rvq_codec_speed.py", "memory", *small)

    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["file_mb"] == 72 * 24_000 * 2 / 1e6
    assert 0 < row["before_mb"] <= row["peak_mb"]


def test_determinism_of_the_bundled_tokenizer_is_as_its_card_says():
    report = run("scripts/determinism.py", "vqtok/vim-vq-tiny", "vqtok/samples", "--limit", "3")

    shares = {line[:28].strip(): float(line[28:].split()[0]) for line in report.splitlines()[2:]}
    assert shares["batches of 3"] < 1e-4
    assert shares["batches of 16"] < 1e-4
    assert shares["bfloat16"] < 0.06
    assert shares["bfloat16 and back"] < 0.03


def test_text_codes_beside_bpe_and_gzip(tmp_path):
    for name in ("train", "held_out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    folders = [str(tmp_path / "train"), str(tmp_path / "held_out")]
    small = ["--vocab", "280", "--rounds", "1", "--threads", "1"]

    run("benchmarks/text_vq_rates.py", *folders, *small, "--json", str(tmp_path / "rows.json"))

    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["exact"]
    assert row["byte_accuracy"] == 1.0
    assert 0 < row["gzip"] < row["bpe_280"] < 8
    assert row["bits_per_byte_with_escapes"] == pytest.approx(6.0, abs=0.05)
