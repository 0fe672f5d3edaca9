"""`vqtok tokenize`, `decode` and `evaluate`: what they print and how they end."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import png
from vqtok.data import load_codes
from vqtok.data.reader import open_run

TOKENIZER = ("--tokenizer", "fake/mean-colour")


def only_line(result) -> dict:
    """The one line of stdout."""
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_tokenize_and_decode_go_round(vqtok_command, photos, tmp_path):
    there = vqtok_command("tokenize", photos, *TOKENIZER, "--out", tmp_path / "codes")
    back = vqtok_command("decode", tmp_path / "codes", "--out", tmp_path / "back")

    assert (there.exit_code, back.exit_code) == (0, 0)
    assert "10 rows" in there.stdout
    assert "2 other files were ignored" in there.stdout
    assert "10 files" in back.stdout
    assert len(list((tmp_path / "back").rglob("*.png"))) == 10


def test_json_is_one_line_on_stdout_and_the_rest_is_on_stderr(vqtok_command, photos, tmp_path):
    tokenize = ("tokenize", photos, *TOKENIZER, "--out", tmp_path / "codes")
    there = vqtok_command(*tokenize, "--json")
    back = vqtok_command("decode", tmp_path / "codes", "--out", tmp_path / "back", "--json")
    measured = vqtok_command("evaluate", *TOKENIZER, "--data", photos, "--json")

    assert (only_line(there)["rows"], only_line(there)["bad"]) == (10, 0)
    assert only_line(back)["files"] == 10
    assert only_line(measured)["images"] == 10
    assert "data/train-00000-of-00001.parquet: 10 rows, 0 bad" in there.stderr


def test_bad_inputs_are_counted_and_do_not_fail_the_run(vqtok_command, mixed, tmp_path):
    result = vqtok_command("tokenize", mixed[0], *TOKENIZER, "--out", tmp_path / "codes")

    assert result.exit_code == 0
    assert "4 inputs could not be tokenized: 2 decode_error, 1 empty, 1 too_large" in result.stdout


def test_too_many_bad_inputs_are_exit_code_1_with_the_codes_written(vqtok_command, mixed, tmp_path):
    command = ("tokenize", mixed[0], *TOKENIZER, "--out", tmp_path / "codes")

    result = vqtok_command(*command, "--max-bad-frac", "0.5", "--json")

    assert result.exit_code == 1
    assert only_line(result)["bad"] == 4
    assert "4 of 6 inputs" in result.stderr
    assert load_codes(tmp_path / "codes").num_rows == 6


def test_a_source_where_nothing_can_be_read_is_exit_code_1(vqtok_command, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.jpg").write_text("text")

    result = vqtok_command("tokenize", tmp_path / "source", *TOKENIZER, "--out", tmp_path / "o")

    assert result.exit_code == 1


def test_resume_goes_on_and_its_absence_is_an_error(vqtok_command, photos, tmp_path):
    command = ("tokenize", photos, *TOKENIZER, "--out", tmp_path / "codes", "--unit-rows", 4)
    first = vqtok_command(*command)
    (tmp_path / "codes/vqtok.json").unlink()
    (tmp_path / "codes/data/train-00002-of-00003.parquet").unlink()

    refused, resumed = vqtok_command(*command), vqtok_command(*command, "--resume", "--json")

    assert (first.exit_code, refused.exit_code, resumed.exit_code) == (0, 1, 0)
    assert "pass --resume" in refused.stderr
    assert only_line(resumed)["resumed_units"] == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--workers", "0"), "workers must be at least 1"),
        (("--executor", "spark"), "executor must be one of"),
        (("--num-codebooks", "2"), "num_codebooks"),
        (("--keep", "label"), "--keep"),
        (("--tokenizer", "nobody"), "nobody is no tokenizer. It has no config.json."),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_deliberate_error_is_one_line_and_exit_code_1(
    vqtok_command, photos, tmp_path, options, says, as_json
):
    command = ("tokenize", photos, *TOKENIZER, "--out", tmp_path / "codes", *options)

    result = vqtok_command(*command, *(["--json"] if as_json else []))

    (line,) = result.stderr.splitlines()
    assert result.exit_code == 1
    assert line.startswith("error: ")
    assert says in line
    if as_json:
        assert says in only_line(result)["error"]["message"]
    else:
        assert result.stdout == ""
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("translate",),
        ("tokenize", "x", "--tokenizer", "fake"),
        ("tokenize", "x", *TOKENIZER, "--out", "y", "--unit-rows", "0"),
        ("tokenize", "x", *TOKENIZER, "--out", "y", "--unit-rows", "many"),
        ("tokenize", "x", *TOKENIZER, "--out", "y", "--max-bad-frac", "1.5"),
        ("tokenize", "x", *TOKENIZER, "--out", "y", "--fast"),
        ("decode", "x"),
        ("evaluate", *TOKENIZER),
        ("info",),
    ],
)
def test_wrong_usage_is_exit_code_2(vqtok_command, arguments):
    assert vqtok_command(*arguments).exit_code == 2


def test_columns_to_keep_are_named_one_by_one_or_with_commas(vqtok_command, tmp_path):
    columns = {"image": pa.array([png(0)], pa.binary()), "a": [1], "b": ["x"], "c": [2.5]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    command = ("tokenize", tmp_path / "t.parquet", *TOKENIZER, "--out", tmp_path / "codes")

    result = vqtok_command(*command, "--keep", "a,b", "--keep", "c")

    assert result.exit_code == 0
    (row,) = open_run(tmp_path / "codes").rows(["a", "b", "c"])
    assert row == {"a": 1, "b": "x", "c": 2.5}


def test_decode_refuses_another_tokenizer(vqtok_command, photos, tmp_path):
    vqtok_command("tokenize", photos, *TOKENIZER, "--out", tmp_path / "codes")

    decode = ("decode", tmp_path / "codes", "--out", tmp_path / "back")
    result = vqtok_command(*decode, "--tokenizer", "fake/other")

    assert result.exit_code == 1
    assert "codebook is the same, but the decoder is another" in result.stderr


def test_a_tokenizer_folder_is_stored_by_its_full_path(
    vqtok_command, photos, tmp_path, monkeypatch
):
    (tmp_path / "fake").mkdir()
    monkeypatch.chdir(tmp_path)

    vqtok_command("tokenize", photos, "--tokenizer", "fake", "--out", tmp_path / "codes")

    assert open_run(tmp_path / "codes").tokenizer["name"] == str(tmp_path / "fake")


def test_evaluate_shows_a_table_and_writes_only_what_it_is_told(
    vqtok_command, photos, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = set(photos.parent.rglob("*"))
    evaluate = ("evaluate", *TOKENIZER, "--data", photos, "--size", "32")

    shown = vqtok_command(*evaluate)
    assert set(photos.parent.rglob("*")) == before
    written = vqtok_command(*evaluate, "--out", tmp_path / "reports/one.json", "--json")

    assert shown.exit_code == 0
    for word in ("bits per pixel", "PSNR, mean of images", "SSIM", "perplexity"):
        assert word in shown.stdout
    report = json.loads((tmp_path / "reports/one.json").read_text())
    assert report == only_line(written)
    assert report["size"] == 32


def test_the_program_starts_without_the_heavy_libraries():
    loaded = "import sys, vqtok.cli; print([m for m in ('torch', 'pyarrow') if m in sys.modules])"

    run = subprocess.run(
        [sys.executable, "-c", loaded],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout.strip() == "[]"
