"""What a run of tokenize leaves on disk."""

import io
import json
import math

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer, FakeTokens, TwoLevels
from tests.data.rows import codes_of, rows_of
from vqtok.data import load_codes, tokenize_dataset
from vqtok.data.plan import default_unit_rows
from vqtok.data.schema import Row, RowSchema, UnitWriter
from vqtok.errors import CodeRangeError, ConfigError, FormatError, InputError, VqtokError


def test_every_image_of_a_folder_is_a_row_once_in_the_order_of_the_names(
    photos, tmp_path, tokenizer
):
    report = tokenize_dataset(photos, tmp_path / "out", tokenizer, unit_rows=3)

    rows = rows_of(tmp_path / "out")
    names = sorted(str(path.relative_to(photos)) for path in photos.glob("*/*"))
    assert [row["src"] for row in rows] == names
    assert [(row["unit"], row["row"]) for row in rows] == [(i // 3, i % 3) for i in range(10)]
    assert (report.rows, report.ok, report.bad, report.ignored) == (10, 10, 0, 2)


def test_a_row_holds_the_codes_that_tokenize_gives(photos, tmp_path, tokenizer):
    tokenize_dataset(photos, tmp_path / "out", tokenizer)

    for row in rows_of(tmp_path / "out"):
        tokens = tokenizer.tokenize([(photos / row["src"]).read_bytes()])[0]
        codes = np.array(row["codes"]).reshape(row["shape"])
        assert np.array_equal(codes, tokens.codes.numpy())
        assert {"height": row["orig_h"], "width": row["orig_w"]} == tokens.meta
        assert row["codes_fp"] == "d" * 16


def test_bad_inputs_become_rows_that_say_why_and_the_run_goes_on(mixed, tmp_path, tokenizer):
    folder, statuses = mixed

    report = tokenize_dataset(folder, tmp_path / "out", tokenizer)

    rows = rows_of(tmp_path / "out")
    assert {row["src"]: row["status"] for row in rows} == statuses
    for row in rows:
        assert (row["codes"] is None) == (row["status"] != "ok") == bool(row["error"])
        assert row["error"] is None or len(row["error"]) <= 200
    assert (report.ok, report.bad) == (2, 4)
    assert report.status == {"decode_error": 2, "empty": 1, "ok": 2, "too_large": 1}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_bad_input_changes_nothing_for_its_batch(mixed, tmp_path, tokenizer, batch_size):
    folder, _ = mixed
    tokenize_dataset(folder, tmp_path / "one", tokenizer)

    tokenize_dataset(folder, tmp_path / "many", tokenizer, batch_size=batch_size)

    assert codes_of(tmp_path / "many") == codes_of(tmp_path / "one")
    assert batch_size in tokenizer.batches


def test_too_many_bad_inputs_raise_after_the_codes_are_written(mixed, tmp_path, tokenizer):
    folder, _ = mixed

    with pytest.raises(InputError, match="4 of 6 inputs"):
        tokenize_dataset(folder, tmp_path / "out", tokenizer, max_bad_frac=0.5)

    assert load_codes(tmp_path / "out").num_rows == 6


def test_a_run_is_laid_out_as_documented(photos, tmp_path, tokenizer):
    out = tmp_path / "out"

    tokenize_dataset(photos, out, tokenizer, unit_rows=4)

    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {
        "README.md",
        "vqtok.json",
        "tokenizer/pointer.json",
        *(f"data/train-{i:05d}-of-00003.parquet" for i in range(3)),
        *(f".vqtok/commits/{i:05d}.json" for i in range(3)),
        *(f".vqtok/{name}" for name in ("lock", "plan.parquet", "run.json", "usage.parquet")),
    }
    manifest = json.loads((out / "vqtok.json").read_text())
    assert manifest["tokenizer"]["fingerprint"]["decode"] == "d" * 64
    assert [unit["rows"] for unit in manifest["units"]] == [4, 4, 2]
    assert manifest["totals"]["tokens"] == sum(len(row["codes"]) for row in rows_of(out))
    used = {code for row in rows_of(out) for code in row["codes"]}
    assert manifest["code_usage"][0]["usage"] == len(used) / 4096


def test_datasets_reads_a_run_without_vqtok(photos, tmp_path, tokenizer):
    tokenize_dataset(photos, tmp_path / "out", tokenizer, unit_rows=4)

    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train")

    assert loaded["src"] == [row["src"] for row in rows_of(tmp_path / "out")]


def test_a_file_alone_says_what_it_is(photos, tmp_path, tokenizer):
    tokenize_dataset(photos, tmp_path / "out", tokenizer, unit_rows=4)

    run = json.loads((tmp_path / "out/.vqtok/run.json").read_text())
    metadata = pq.read_schema(tmp_path / "out/data/train-00001-of-00003.parquet").metadata
    assert metadata[b"vqtok.schema"] == b"1"
    assert metadata[b"vqtok.unit"] == b"1"
    assert metadata[b"vqtok.decode_fp"] == b"d" * 64
    assert metadata[b"vqtok.plan_hash"].decode() == run["plan_hash"]


def test_two_codebooks_are_stored_in_a_type_that_holds_both(photos, tmp_path):
    tokenize_dataset(photos, tmp_path / "out", TwoLevels())

    row = rows_of(tmp_path / "out")[0]
    codes = np.array(row["codes"]).reshape(row["shape"])
    schema = pq.read_schema(tmp_path / "out/data/train-00000-of-00001.parquet")
    assert schema.field("codes").type == pa.list_(pa.uint32())
    assert np.array_equal(codes[1], 69_999 - codes[0])
    usage = json.loads((tmp_path / "out/vqtok.json").read_text())["code_usage"]
    assert usage[0]["entropy_bits"] == pytest.approx(usage[1]["entropy_bits"])
    assert [stats["codebook_size"] for stats in usage] == [4096, 70_000]


def test_fewer_codebooks_are_the_first_ones(photos, tmp_path):
    tokenize_dataset(photos, tmp_path / "two", TwoLevels())

    tokenize_dataset(photos, tmp_path / "one", TwoLevels(), num_codebooks=1)

    for one, two in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        assert one["codes"] == two["codes"][: len(one["codes"])]
        assert one["shape"] == [1, *two["shape"][1:]]


class Uniform(FakeTokenizer):
    """Codes that no compressor can shrink: uniform noise, 256 a row."""

    def _one(self, item):
        rng = np.random.default_rng(len(item) + self.seen)
        self.seen += 1
        codes = rng.integers(0, 4096, (1, 16, 16))
        return FakeTokens(_tensor(codes), {"height": 128, "width": 128}, self.fingerprint.decode)

    seen = 0


def _tensor(array):
    import torch

    return torch.from_numpy(array)


def test_a_token_costs_its_entropy_and_little_more(tmp_path):
    table = pa.table({"image": pa.array([b"x"] * 1600, pa.binary())})
    pq.write_table(table, tmp_path / "source.parquet")

    report = tokenize_dataset(tmp_path / "source.parquet", tmp_path / "out", Uniform())

    assert report.tokens == 1600 * 256
    assert report.bytes / report.tokens <= 1.15 * math.log2(4096) / 8


class OutOfRange(FakeTokenizer):
    codebook_sizes = (16,)


class Broken(FakeTokenizer):
    def _one(self, item):
        raise RuntimeError("no kernel image is available")


class CrashesOnOne(FakeTokenizer):
    def _one(self, item):
        if item == png(5, height=8 + 5 * 5, width=40 - 3 * 5):
            raise RuntimeError("shape mismatch")
        return super()._one(item)


def test_codes_out_of_range_stop_the_run(photos, tmp_path):
    with pytest.raises(CodeRangeError):
        tokenize_dataset(photos, tmp_path / "out", OutOfRange())

    assert not (tmp_path / "out/data").exists()


def test_an_input_that_crashes_the_tokenizer_is_a_row(photos, tmp_path):
    report = tokenize_dataset(photos, tmp_path / "out", CrashesOnOne(), batch_size=2)

    (row,) = [row for row in rows_of(tmp_path / "out") if row["status"] != "ok"]
    assert (row["src"], row["status"]) == ("c/5.PNG", "crash")
    assert "shape mismatch" in row["error"]
    assert report.bad == 1


def test_a_tokenizer_that_always_crashes_stops_the_run(photos, tmp_path):
    with pytest.raises(VqtokError, match="no kernel image"):
        tokenize_dataset(photos, tmp_path / "out", Broken())

    assert not (tmp_path / "out/vqtok.json").exists()


def test_a_folder_in_use_is_refused_without_resume(photos, tmp_path, tokenizer):
    tokenize_dataset(photos, tmp_path / "out", tokenizer)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("")

    for folder in ("out", "other"):
        with pytest.raises(ConfigError, match="not empty"):
            tokenize_dataset(photos, tmp_path / folder, tokenizer)
    with pytest.raises(FormatError, match="no run to resume"):
        tokenize_dataset(photos, tmp_path / "other", tokenizer, resume=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"executor": "spark"}, "executor must be one of"),
        ({"unit_rows": 0}, "unit_rows"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_codebooks": 2}, "num_codebooks"),
        ({"max_bad_frac": 2.0}, "max_bad_frac"),
        ({"keep": ["label"]}, "--keep"),
        ({"column": "image"}, "--column"),
    ],
)
def test_an_option_that_cannot_be_obeyed_is_refused(photos, tmp_path, tokenizer, options, says):
    with pytest.raises(ConfigError, match=says):
        tokenize_dataset(photos, tmp_path / "out", tokenizer, **options)

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.uint8(), pa.int64(), pa.string(), pa.binary(), pa.bool_(), pa.float32()),
        *(pa.float16(), pa.large_string(), pa.list_(pa.int64()), pa.timestamp("us")),
    ],
)
def test_a_unit_gives_the_types_of_its_columns_back(kind):
    schema = RowSchema((300, 70_000), (pa.field("kept", kind),))
    writer = UnitWriter(schema, {"vqtok.unit": "0"})
    writer.add(Row("a", 0, 0, "a.png", 0, "f" * 16, kept={"kept": None}))

    read = pq.read_schema(io.BytesIO(writer.close()))

    assert read.remove_metadata() == schema.arrow().remove_metadata()
    assert read.metadata[b"vqtok.unit"] == b"0"


def test_small_sources_make_several_units_and_large_ones_units_of_8192():
    assert [default_unit_rows(n) for n in (1, 64, 512, 800, 50_000, 10**7)] == [
        *(64, 64, 64, 100, 6250, 8192),
    ]
