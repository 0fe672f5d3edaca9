"""What users really have: patterns, gzip, paths in tables, odd names, damage, lost files."""

import base64
import gzip
import json
import os

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.fake_others import FakeAudio, FakeText, FakeVectors, sound
from tests.data.rows import rows_of
from tests.data.test_more_sources import write_tar
from vqtok.data import tokenize_dataset
from vqtok.data.ahead import ahead
from vqtok.data.patterns import expand_braces, is_pattern, split_root
from vqtok.data.plan import build_plan
from vqtok.data.sources import open_source
from vqtok.errors import ConfigError, InputError


def codes(image: bytes) -> list[int]:
    return FakeTokenizer().tokenize([image])[0].codes.flatten().tolist()


@pytest.fixture
def tars(tmp_path):
    """Three tars of 3 images each, and a fourth file that is none of them."""
    for shard in range(3):
        members = {f"{shard}-{index}.png": png(3 * shard + index) for index in range(3)}
        write_tar(tmp_path / f"set-{shard:03d}.tar", members)
    (tmp_path / "other.tar").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("set-{000..002}.tar", ["set-000.tar", "set-001.tar", "set-002.tar"]),
        ("set-{000,002}.tar", ["set-000.tar", "set-002.tar"]),
        ("set-*.tar", ["set-000.tar", "set-001.tar", "set-002.tar"]),
        ("set-00[12].tar", ["set-001.tar", "set-002.tar"]),
        ("{set-000,set-?01}.tar", ["set-000.tar", "set-001.tar"]),
    ],
)
@pytest.mark.parametrize("where", ["here", "there"])
def test_patterns_are_the_files_they_stand_for(tars, pattern, names, where):
    root = tars
    if where == "there":
        system, root = fsspec.filesystem("memory"), "memory://tars"
        for path in tars.glob("*.tar"):
            system.pipe(f"/tars/{path.name}", path.read_bytes())

    source = open_source(f"{root}/{pattern}")

    assert source.names == names
    assert sum(shard.rows for shard in source.list()) == 3 * len(names)


def test_a_pattern_that_fits_nothing_is_refused(tars):
    for pattern, says in (("*.parquet", "no file fits"), ("set-{001..004}.tar", "2 of the 4")):
        with pytest.raises(InputError, match=says):
            open_source(tars / pattern)
    with pytest.raises(ConfigError, match="stand for 10000000000 names"):
        open_source(f"{tars}/{{0..99999}}-{{0..99999}}.tar")
    with pytest.raises(ConfigError, match="smaller number"):
        open_source(tars / "set-{9..2}.tar")


def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path):
    (tmp_path / "photos [2020] {a,b}").mkdir()
    (tmp_path / "photos [2020] {a,b}/x.png").write_bytes(png(0))

    assert open_source(tmp_path / "photos [2020] {a,b}").names == ["x.png"]


def test_a_new_file_that_fits_the_pattern_is_noticed_on_resume(tars):
    out = tars / "out"
    tokenize_dataset(tars / "set-*.tar", out, FakeTokenizer(), unit_rows=4)
    (out / "vqtok.json").unlink()
    tokenize_dataset(tars / "set-*.tar", out, FakeTokenizer(), resume=True)
    (out / "vqtok.json").unlink()
    write_tar(tars / "set-003.tar", {"a.png": png(0)})

    with pytest.raises(InputError, match=r"set-003\.tar is new"):
        tokenize_dataset(tars / "set-*.tar", out, FakeTokenizer(), resume=True)


@given(first=st.integers(0, 2000), count=st.integers(1, 40), digits=st.integers(1, 6))
def test_braces_count_with_the_digits_they_are_written_with(first, count, digits):
    last = first + count - 1
    low, high = f"{first:0{digits}d}", f"{last:0{digits}d}"

    names = expand_braces(f"a{{{low}..{high}}}b")

    assert [int(name[1:-1]) for name in names] == list(range(first, last + 1))
    assert len(set(map(len, names))) == 1 or len(low) != len(high)
    assert names[0] == f"a{low}b"


def test_the_root_of_a_pattern_is_its_plain_part():
    assert split_root("/a/b/c-{0..3}/*.tar") == ("/a/b", "c-{0..3}/*.tar")
    assert split_root("s3://bucket/*.tar") == ("s3://bucket", "*.tar")
    assert split_root("*.tar") == ("", "*.tar")
    assert split_root("/*.tar") == ("/", "*.tar")
    assert not is_pattern("https://host/x.parquet?version=3")
    assert not is_pattern("a{b}.tar")


@pytest.mark.parametrize("unit_rows", [2, 100])
def test_gzipped_tars_and_lines_give_the_same_rows(tmp_path, unit_rows):
    members = {}
    for index in range(9):
        members |= {f"{index}.txt": f"caption {index}".encode(), f"{index}.png": png(index)}
    lines = "".join(json.dumps({"text": f"line {index}"}) + "\n" for index in range(9)).encode()
    write_tar(tmp_path / "set.tar", members)
    (tmp_path / "lines.jsonl").write_bytes(lines)
    for name in ("set.tar", "lines.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    (tmp_path / "set.tgz").write_bytes((tmp_path / "set.tar.gz").read_bytes())

    rows = {}
    for name in ("set.tar", "set.tar.gz", "set.tgz", "lines.jsonl", "lines.jsonl.gz"):
        tokenizer = FakeText() if "lines" in name else FakeTokenizer()
        keep = [] if "lines" in name else ["txt"]
        tokenize_dataset(
            tmp_path / name, tmp_path / "out" / name, tokenizer, keep=keep, unit_rows=unit_rows
        )
        rows[name] = rows_of(tmp_path / "out" / name)
        for row in rows[name]:
            del row["src"]

    assert rows["set.tar"] == rows["set.tar.gz"] == rows["set.tgz"]
    assert [row["txt"] for row in rows["set.tar"]] == [f"caption {index}" for index in range(9)]
    assert rows["lines.jsonl"] == rows["lines.jsonl.gz"]


def test_a_gzipped_file_that_was_cut_off_says_so(tmp_path):
    write_tar(tmp_path / "set.tar", {f"{index}.png": png(index, 64, 64) for index in range(9)})
    packed = gzip.compress((tmp_path / "set.tar").read_bytes(), 1)
    (tmp_path / "cut.tar.gz").write_bytes(packed[: len(packed) // 2])
    lines = gzip.compress(b'{"text": "a"}\n' * 9)
    (tmp_path / "cut.jsonl.gz").write_bytes(lines[:-9])

    tokenize_dataset(tmp_path / "cut.tar.gz", tmp_path / "out", FakeTokenizer())

    statuses = [row["status"] for row in rows_of(tmp_path / "out")]
    assert statuses[0] == "ok"
    assert statuses[-1] == "decode_error"
    with pytest.raises(InputError, match="cannot be read to its end"):
        tokenize_dataset(tmp_path / "cut.jsonl.gz", tmp_path / "text", FakeText())


@pytest.mark.parametrize("name", ["a.tar.zst", "b.jsonl.bz2", "c.parquet.gz", "d.TAR.XZ"])
def test_what_is_packed_in_another_way_is_refused_by_name(tars, name):
    (tars / name).write_bytes(b"packed")

    for source in (tars, tars / name):
        with pytest.raises(InputError, match=f"{name}.*unpack it"):
            open_source(source)


def test_a_scan_goes_forward_over_rows_of_other_workers(tars, monkeypatch):
    source = open_source(tars / "set-{000..002}.tar")
    plan = build_plan(source.list(), 1)
    opened = []
    was = source.files.open
    monkeypatch.setattr(source.files, "open", lambda name: opened.append(name) or was(name))

    data = [sample.data for unit in plan.units[::2] for sample in source.read(unit.segments)]

    assert data == [png(index) for index in range(0, 9, 2)]
    assert len(opened) == 3


def test_cells_that_only_name_a_file_are_read_from_beside_the_table(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media/größe.wav").write_bytes(sound(1))
    absolute = tmp_path / "abs.wav"
    absolute.write_bytes(sound(2))
    cells = [
        {"bytes": sound(0), "path": "nowhere.wav"},
        {"bytes": None, "path": "media/größe.wav"},
        {"bytes": None, "path": str(absolute)},
        {"bytes": None, "path": "media/gone.wav"},
        {"bytes": None, "path": None},
        None,
        {"bytes": None, "path": "media"},
        {"bytes": None, "path": "nul\0.wav"},
    ]
    pq.write_table(pa.table({"audio": cells}), tmp_path / "t.parquet", row_group_size=3)

    tokenize_dataset(tmp_path / "t.parquet", tmp_path / "out", FakeAudio())

    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["empty"] * 5
    assert "gone.wav" in rows[3]["error"]
    for row, seed in zip(rows, range(3), strict=False):
        wanted = FakeAudio().tokenize([sound(seed)])[0].codes.flatten().tolist()
        assert row["codes"] == wanted


def test_a_dataset_of_a_folder_of_images_is_read_from_its_files(photos, tmp_path):
    dataset = datasets.load_dataset("imagefolder", data_dir=str(photos), split="train")

    tokenize_dataset(dataset, tmp_path / "out", FakeTokenizer())

    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok"] * 10
    images = {tuple(codes(path.read_bytes())) for path in photos.rglob("[0-9]*") if path.is_file()}
    assert {tuple(row["codes"]) for row in rows} == images


def test_lines_hold_images_as_base64_or_name_them(tmp_path):
    text = base64.b64encode(png(0)).decode()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/1.png").write_bytes(png(1))
    values = [
        f"data:image/png;base64,{text}",
        {"bytes": text, "path": "x.png"},
        {"bytes": None, "path": "1.png"},
        "1.png",
        str(tmp_path / "sub/1.png"),
        "data:image/png;base64,!!!",
        text,
        7,
    ]
    lines = [json.dumps({"image": value}) for value in values]
    (tmp_path / "sub/l.jsonl").write_text("\n".join(lines))

    tokenize_dataset(tmp_path / "sub/l.jsonl", tmp_path / "out", FakeTokenizer())

    rows = rows_of(tmp_path / "out")
    assert [row["codes"] for row in rows[:5]] == [codes(png(0))] * 2 + [codes(png(1))] * 3
    assert [row["status"] for row in rows[5:]] == ["decode_error"] * 3


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string()])
def test_texts_of_any_width_and_nulls(tmp_path, kind):
    column = pa.chunked_array([pa.array(["größe", None], kind), pa.array(["", "z"], kind)])
    pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    vectors = pa.array([[1.0, 2, 3, 4], None, [0.5] * 4], pa.large_list(pa.float64()))
    pq.write_table(pa.table({"embedding": vectors}), tmp_path / "v.parquet")

    tokenize_dataset(tmp_path / "t.parquet", tmp_path / "t", FakeText())
    tokenize_dataset(tmp_path / "v.parquet", tmp_path / "v", FakeVectors())

    statuses = [row["status"] for row in rows_of(tmp_path / "t")]
    assert (statuses[0], statuses[1], statuses[3]) == ("ok", "empty", "ok")
    assert [row["status"] for row in rows_of(tmp_path / "v")] == ["ok", "empty", "ok"]


def test_a_table_that_is_damaged_inside_is_an_error_that_names_it(tmp_path):
    cells = pa.table({"image": [np.random.default_rng(i).bytes(999) for i in range(300)]})
    pq.write_table(cells, tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    with pa.ipc.new_stream(str(tmp_path / "t.arrow"), cells.schema) as writer:
        writer.write_table(cells, max_chunksize=50)
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[:4] + bytes(2000) + whole[2004:])
    (tmp_path / "t.arrow").write_bytes((tmp_path / "t.arrow").read_bytes()[:100_000])

    for name in ("t.parquet", "t.arrow"):
        with pytest.raises(InputError, match=rf"{name} cannot be read as a table"):
            tokenize_dataset(tmp_path / name, tmp_path / f"{name}-out", FakeTokenizer())


@pytest.mark.parametrize("name", ["a/0.png", "t.tar", "l.jsonl", "t.parquet"])
def test_what_vanishes_behind_the_plan_is_an_error_that_names_it(tmp_path, name):
    path = tmp_path / "s" / name
    path.parent.mkdir(parents=True)
    if name.endswith("tar"):
        write_tar(path, {"a.png": png(0)})
    elif name.endswith("parquet"):
        pq.write_table(pa.table({"image": [png(0)]}), path)
    else:
        path.write_bytes(png(0) if name.endswith("png") else b'{"image": "x.png"}\n')
    system = fsspec.filesystem("memory")
    system.pipe(f"/s/{name}", path.read_bytes())

    for where in (tmp_path / "s", "memory://s"):
        source = open_source(where)
        plan = build_plan(source.list(), 10)
        path.unlink(missing_ok=True) if where == tmp_path / "s" else system.rm("/s", True)
        with pytest.raises(InputError, match="cannot be found now"):
            list(source.read(plan.units[0].segments))


def test_names_keep_their_form(tmp_path):
    names = ["e\u0301.png", "\u00e9.png", "日本 語.png", "a'b\"c.png", "x\ny.png", "%41.png"]
    for index, name in enumerate(names):
        (tmp_path / name).write_bytes(png(index))
    os.symlink(tmp_path / names[2], tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe.png")

    source = open_source(tmp_path)

    assert source.names == sorted([*names, "link.png"])
    assert all(shard.size for shard in source.list())


def test_work_ahead_keeps_its_order_and_its_errors():
    def work(number):
        if number == 30:
            raise InputError("thirty")
        return number

    done = []
    with pytest.raises(InputError, match="thirty"):
        done.extend(iter_into(done, ahead(work, range(100), 4, lambda number: 1 << 26)))
    assert done == list(range(30))
    assert list(ahead(work, range(20), 8)) == list(range(20))


def iter_into(done, values):
    """Keeps what came before an error."""
    for value in values:
        done.append(value)
    return []


def test_a_memory_of_a_listing_is_not_trusted_twice():
    system = fsspec.filesystem("memory")
    system.pipe("/twice/a.png", png(0))
    source = open_source("memory://twice")
    first = source.list()
    system.pipe("/twice/a.png", png(1, 40, 40))

    assert open_source("memory://twice").list() != first
    assert source.list() != first
