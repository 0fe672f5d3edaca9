"""What SOURCE may be, and in which order its inputs come."""

import os

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conftest import png
from tests.data.rows import codes_of, rows_of
from vqtok.data import load_codes, tokenize_dataset
from vqtok.data.plan import Plan, build_plan, plan_difference
from vqtok.data.sources import InputShard, open_source
from vqtok.errors import ConfigError, FormatError, InputError


@pytest.fixture
def table() -> pa.Table:
    """25 images in the Hugging Face layout, with a class label and a caption."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "caption": datasets.Value("string"),
        }
    )
    rows = {
        "image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(25)],
        "label": [i % 2 for i in range(25)],
        "caption": [f"number {i}" for i in range(25)],
    }
    return datasets.Dataset.from_dict(rows, features=features).data.table


def write_folder(table: pa.Table, folder) -> None:
    """The table as two parquet files, the first with several row groups."""
    folder.mkdir()
    pq.write_table(table.slice(0, 16), folder / "part-0.parquet", row_group_size=5)
    pq.write_table(table.slice(16), folder / "part-1.parquet")


@pytest.mark.parametrize("unit_rows", [1, 4, 7, 100])
def test_rows_of_tables_keep_their_order_whatever_the_units(table, tmp_path, tokenizer, unit_rows):
    write_folder(table, tmp_path / "source")

    tokenize_dataset(tmp_path / "source", tmp_path / "out", tokenizer, unit_rows=unit_rows)

    rows = rows_of(tmp_path / "out")
    places = [("part-0.parquet", i) for i in range(16)] + [("part-1.parquet", i) for i in range(9)]
    assert [(row["src"], row["src_row"]) for row in rows] == places
    assert len({row["id"] for row in rows}) == 25
    for index, row in enumerate(rows):
        (tokens,) = tokenizer.tokenize([png(index)])
        assert row["codes"] == tokens.codes.flatten().tolist()


def test_kept_columns_come_along_with_their_features(table, tmp_path, tokenizer):
    write_folder(table, tmp_path / "source")

    tokenize_dataset(
        tmp_path / "source", tmp_path / "out", tokenizer, unit_rows=6, keep=["label", "caption"]
    )

    codes = load_codes(tmp_path / "out")
    assert codes.features["label"].names == ["cat", "dog"]
    assert codes["label"] == [i % 2 for i in range(25)]
    assert codes["caption"] == [f"number {i}" for i in range(25)]


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_files_give_the_rows_of_parquet(table, tmp_path, tokenizer, form):
    write_folder(table, tmp_path / "parquet")
    (tmp_path / "arrow").mkdir()
    opener = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}[form]
    with opener(str(tmp_path / "arrow/part.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=4)

    for kind in ("parquet", "arrow"):
        tokenize_dataset(tmp_path / kind, tmp_path / f"{kind}-out", tokenizer, unit_rows=7)

    arrow, parquet = rows_of(tmp_path / "arrow-out"), rows_of(tmp_path / "parquet-out")
    assert [row["codes"] for row in arrow] == [row["codes"] for row in parquet]


def test_binary_columns_are_found_or_named(tmp_path, tokenizer):
    columns = {"jpg": pa.array([png(0), None, b""], pa.binary()), "n": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "one.parquet")
    columns["mask"] = pa.array([png(1)] * 3, pa.large_binary())
    pq.write_table(pa.table(columns), tmp_path / "two.parquet")

    tokenize_dataset(tmp_path / "one.parquet", tmp_path / "a", tokenizer)
    tokenize_dataset(tmp_path / "two.parquet", tmp_path / "b", tokenizer, column="mask")

    assert [row["status"] for row in rows_of(tmp_path / "a")] == ["ok", "empty", "empty"]
    assert [row["status"] for row in rows_of(tmp_path / "b")] == ["ok"] * 3
    with pytest.raises(InputError, match="--column"):
        open_source(tmp_path / "two.parquet")


def test_columns_that_cannot_be_kept_are_refused(table, tmp_path, tokenizer):
    write_folder(table, tmp_path / "source")
    clash = table.rename_columns(["image", "label", "status"])
    pq.write_table(clash, tmp_path / "clash.parquet")

    with pytest.raises(ConfigError, match="no column"):
        tokenize_dataset(tmp_path / "source", tmp_path / "out", tokenizer, keep=["labels"])
    with pytest.raises(ConfigError, match=r"\['status'\] cannot be kept"):
        tokenize_dataset(tmp_path / "clash.parquet", tmp_path / "out", tokenizer, keep=["status"])


def test_one_image_is_a_source(photos, tmp_path, tokenizer):
    tokenize_dataset(photos / "b/1.PNG", tmp_path / "out", tokenizer)

    assert [row["src"] for row in rows_of(tmp_path / "out")] == ["1.PNG"]


def test_links_are_followed_and_loops_are_not(photos, tmp_path, tokenizer):
    (photos / "a/back").symlink_to(photos)
    (photos / "d").symlink_to(photos / "c")

    tokenize_dataset(photos, tmp_path / "out", tokenizer)

    sources = [row["src"] for row in rows_of(tmp_path / "out")]
    assert len(sources) == 10 + len(list((photos / "c").iterdir()))
    assert sources == sorted(set(sources))


def test_a_link_to_nothing_is_a_row_that_says_so(photos, tmp_path, tokenizer):
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (photos / "self.jpg").symlink_to(photos / "self.jpg")
    (photos / "gone.txt").symlink_to(tmp_path / "nowhere.txt")

    report = tokenize_dataset(photos, tmp_path / "out", tokenizer)
    rows = {row["src"]: row for row in rows_of(tmp_path / "out")}

    assert (len(rows), report.ignored) == (12, 3)
    for name, target in (("gone.jpg", "nowhere.jpg"), ("self.jpg", "self.jpg")):
        assert rows[name]["status"] == "decode_error"
        assert target in rows[name]["error"]
        assert "cannot be found" in rows[name]["error"]
        assert rows[name]["codes"] is None


def test_a_link_that_comes_back_during_a_run_is_a_change(photos, tmp_path, tokenizer):
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = open_source(photos)
    plan = build_plan(source.list(), 100)
    (tmp_path / "nowhere.jpg").write_bytes(png(0))

    with pytest.raises(InputError, match=r"gone\.jpg changed"):
        list(source.read(plan.units[0].segments))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nofs://x/y", "cannot be opened"),
        ("missing", "does not exist"),
        ("set.zip", "is not an input"),
        ("empty", "none of the 0 files"),
        ("both", "name one of them"),
        ("broken.parquet", "cannot be read as a table"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(tmp_path, tokenizer, table, name, says):
    (tmp_path / "set.zip").write_bytes(b"")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "empty").mkdir()
    write_folder(table, tmp_path / "both")
    (tmp_path / "both/x.png").write_bytes(png(0))

    source = name if "://" in name else tmp_path / name
    with pytest.raises(InputError, match=says):
        tokenize_dataset(source, tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


def test_a_file_name_that_no_row_can_hold_is_refused(tmp_path, tokenizer):
    (tmp_path / "photos").mkdir()
    with open(os.fsencode(tmp_path / "photos") + b"/\xff.png", "wb") as handle:
        handle.write(png(0))

    with pytest.raises(InputError, match="not valid UTF-8"):
        tokenize_dataset(tmp_path / "photos", tmp_path / "out", tokenizer)


def test_a_file_that_changes_during_the_run_stops_it(photos, tmp_path, tokenizer):
    class Rewriting(type(tokenizer)):
        def tokenize(self, items, batch_size=1):
            (photos / "c/8.png").write_bytes(png(99, 80, 80))
            return super().tokenize(items, batch_size)

    with pytest.raises(InputError, match="changed while it was being tokenized"):
        tokenize_dataset(photos, tmp_path / "out", Rewriting(), unit_rows=4)


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12), unit_rows=st.integers(1, 50))
def test_a_plan_holds_every_input_once_and_in_order(sizes, unit_rows):
    shards = [InputShard(f"f{i:02d}", 10, "v", rows) for i, rows in enumerate(sizes)]
    everything = [(f"f{i:02d}", row) for i, rows in enumerate(sizes) for row in range(rows)]
    if not everything:
        with pytest.raises(InputError):
            build_plan(shards, unit_rows)
        return

    plan = build_plan(shards, unit_rows)

    parts = [part for unit in plan.units for part in unit.segments]
    covered = [(p.uri, p.row_start + i) for p in parts for i in range(p.row_count)]
    assert covered == everything
    assert all(unit.rows == unit_rows for unit in plan.units[:-1])
    again = Plan.from_parquet(plan.to_parquet(), "plan")
    assert again == plan
    assert again.digest() == plan.digest()
    assert plan_difference(plan, again) == ""


def test_too_many_units_are_refused_with_a_size_that_works():
    shards = [InputShard("f", 10, "v", 100_000)]

    with pytest.raises(ConfigError, match="--unit-rows 12 or more"):
        build_plan(shards, 1)
    assert len(build_plan(shards, 12).units) <= 9_000


def test_a_damaged_plan_is_refused(tmp_path):
    with pytest.raises(FormatError, match="cannot be read as a plan"):
        Plan.from_parquet(b"not parquet", "plan.parquet")


def test_the_same_input_has_the_same_hash_wherever_it_lies(photos, tmp_path, tokenizer):
    tokenize_dataset(photos, tmp_path / "folder", tokenizer, content_hash=True)
    data = [(photos / row["src"]).read_bytes() for row in rows_of(tmp_path / "folder")]
    pq.write_table(pa.table({"image": pa.array(data, pa.binary())}), tmp_path / "t.parquet")

    tokenize_dataset(tmp_path / "t.parquet", tmp_path / "table", tokenizer, content_hash=True)

    hashes = [[row["content_hash"] for row in rows_of(tmp_path / n)] for n in ("folder", "table")]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 10
    assert codes_of(tmp_path / "folder") != codes_of(tmp_path / "table")
    assert np.array(hashes[0], np.uint64).dtype == np.uint64
