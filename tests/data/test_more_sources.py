"""Tars, lines of JSON, datasets, other file systems: the same rows as from a folder."""

import io
import json
import pickle
import tarfile

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.fake_others import FakeAudio, FakeText, FakeVectors, sound
from tests.data.rows import rows_of
from vqtok.data import tokenize_dataset, verify_run
from vqtok.data.files import of_split, split_url
from vqtok.data.plan import build_plan
from vqtok.data.sources import open_source
from vqtok.errors import ConfigError, InputError, VqtokError


def write_tar(path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path):
    """Two webdataset tars of 5 samples each; one has no image, one is no image."""
    root = tmp_path / "shards"
    root.mkdir()
    for shard in range(2):
        members = {"__note__.txt": b"skipped"}
        for index in range(shard * 5, shard * 5 + 5):
            members[f"dir/{index:03d}.jpg"] = png(index)
            members[f"dir/{index:03d}.txt"] = f"caption {index}".encode()
        if shard:
            members["dir/006.jpg"] = b"no image"
            del members["dir/008.jpg"]
        write_tar(root / f"shard-{shard}.tar", members)
    return root


@pytest.mark.parametrize("unit_rows", [1, 3, 100])
def test_samples_of_tars_are_rows_with_their_keys(shards, tmp_path, unit_rows):
    out = tmp_path / "out"

    tokenize_dataset(shards, out, FakeTokenizer(), keep=["txt"], unit_rows=unit_rows)

    rows = rows_of(out)
    assert [row["id"] for row in rows] == [f"dir/{index:03d}" for index in range(10)]
    assert [row["src_row"] for row in rows] == [0, 1, 2, 3, 4] * 2
    assert [row["txt"] for row in rows] == [f"caption {index}" for index in range(10)]
    statuses = {6: "decode_error", 8: "empty"}
    assert [row["status"] for row in rows] == [statuses.get(i, "ok") for i in range(10)]
    (tokens,) = FakeTokenizer().tokenize([png(3)])
    assert rows[3]["codes"] == tokens.codes.flatten().tolist()
    assert verify_run(out).problems == []


def test_a_tar_that_was_cut_off_gives_what_is_whole_and_says_so(shards, tmp_path):
    data = (shards / "shard-0.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    (tmp_path / "none.tar").write_bytes(b"not a tar at all" * 100)

    (tmp_path / "marker.tar").write_bytes(data[: data.rindex(b"caption 4") + 512 - 9])

    for name in ("cut", "none", "marker"):
        tokenize_dataset(tmp_path / f"{name}.tar", tmp_path / name, FakeTokenizer())

    rows = rows_of(tmp_path / "cut")
    assert rows[0]["status"] == "ok"
    assert rows[-1]["status"] == "decode_error"
    assert [row["status"] for row in rows_of(tmp_path / "marker")] == ["ok"] * 5 + ["decode_error"]
    (row,) = rows_of(tmp_path / "none")
    assert "damaged" in row["error"]


def test_two_images_of_a_sample_want_a_name(tmp_path):
    write_tar(tmp_path / "t.tar", {"a.png": png(0), "a.mask.png": png(1), "a.jpg": png(2)})

    tokenize_dataset(tmp_path / "t.tar", tmp_path / "any", FakeTokenizer())
    tokenize_dataset(tmp_path / "t.tar", tmp_path / "mask", FakeTokenizer(), column="mask.png")

    (row,) = rows_of(tmp_path / "any")
    assert "--column" in row["error"]
    (row,) = rows_of(tmp_path / "mask")
    assert row["codes"] == FakeTokenizer().tokenize([png(1)])[0].codes.flatten().tolist()


def test_lines_of_json_hold_texts_vectors_and_paths(tmp_path):
    lines = ['{"text": "Quick", "n": 1}', "", "not json", '{"n": 2}', '["x"]', '{"text": 5}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    vectors = ['{"embedding": [0.5, 1, -1, 2]}', '{"embedding": [1, "x", 2, 3]}']
    (tmp_path / "v.jsonl").write_text("\n".join(vectors))
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.wav").write_bytes(sound(0))
    (tmp_path / "s.jsonl").write_text('{"audio": "media/a.wav"}\n{"path": "media/b.wav"}\n')

    tokenize_dataset(tmp_path / "t.jsonl", tmp_path / "t", FakeText(), keep=["n"], unit_rows=2)
    tokenize_dataset(tmp_path / "v.jsonl", tmp_path / "v", FakeVectors())
    tokenize_dataset(tmp_path / "s.jsonl", tmp_path / "s", FakeAudio())

    texts, found, sounds = (rows_of(tmp_path / name) for name in "tvs")
    assert [r["status"] for r in texts] == ["ok", "decode_error", "empty"] + ["decode_error"] * 2
    assert [row["n"] for row in texts] == ["1", None, "2", None, None]
    assert [row["status"] for row in found] == ["ok", "decode_error"]
    assert [row["status"] for row in sounds] == ["ok", "decode_error"]
    assert "b.wav" in sounds[1]["error"]


def test_the_description_of_an_image_folder_is_no_source(photos, tmp_path):
    (photos / "metadata.jsonl").write_text('{"file_name": "a/0.png"}\n')

    assert open_source(photos).kind == "files"


def test_a_dataset_in_memory_is_read_undecoded_and_in_order(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "n": datasets.Value("int32")})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(10)], "n": range(10)}
    dataset = datasets.Dataset.from_dict(rows, features=features).select([7, 2, 9, 4])

    tokenize_dataset(dataset, tmp_path / "out", FakeTokenizer(), keep=["n"], unit_rows=3)
    tokenize_dataset(dataset, tmp_path / "two", FakeTokenizer(), keep=["n"], workers=2)

    found = rows_of(tmp_path / "out")
    assert [row["n"] for row in found] == [7, 2, 9, 4]
    for row, index in zip(found, (7, 2, 9, 4), strict=True):
        (tokens,) = FakeTokenizer().tokenize([png(index)])
        assert row["codes"] == tokens.codes.flatten().tolist()
    assert verify_run(tmp_path / "out").rows_digest == verify_run(tmp_path / "two").rows_digest
    with pytest.raises(InputError, match="IterableDataset name the files"):
        open_source(iter([]))


@pytest.fixture
def memory():
    """A file system that is not this machine's."""
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True) if system.exists("/") else None
    yield system
    system.store.clear()


def test_other_file_systems_give_the_rows_of_this_one(memory, photos, shards, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [png(i) for i in range(4)]}), buffer)
    (tmp_path / "table").mkdir()
    (tmp_path / "table/t.parquet").write_bytes(buffer.getvalue())
    (tmp_path / "vectors").mkdir()
    np.save(tmp_path / "vectors/v.npy", vectors)
    np.savez(tmp_path / "vectors/w.npz", embeddings=vectors)
    for folder in ("photos", "shards", "table", "vectors"):
        for path in sorted((tmp_path / folder).rglob("*")):
            if path.is_file():
                memory.pipe(f"/data/{path.relative_to(tmp_path)}", path.read_bytes())

    for folder in ("photos", "shards", "table", "vectors"):
        tokenizer = FakeVectors() if folder == "vectors" else FakeTokenizer()
        there, here = tmp_path / f"{folder}-there", tmp_path / f"{folder}-here"
        tokenize_dataset(f"memory://data/{folder}", there, tokenizer, unit_rows=4)
        tokenize_dataset(tmp_path / folder, here, tokenizer, unit_rows=4)
        digests = [verify_run(out).rows_digest for out in (there, here)]
        assert digests[0] == digests[1], folder


def test_a_remote_file_that_was_written_again_is_refused(memory):
    memory.pipe("/d/a.png", png(0))
    source = open_source("memory://d")
    plan = build_plan(source.list(), 10)
    memory.pipe("/d/a.png", png(1, 40, 40))

    with pytest.raises(InputError, match=r"a\.png changed"):
        list(source.read(plan.units[0].segments))


def test_an_outage_is_an_error_of_the_run_and_not_of_a_row(memory, monkeypatch):
    memory.pipe("/d/a.png", png(0))
    source = open_source("memory://d")
    plan = build_plan(source.list(), 10)
    monkeypatch.setattr("vqtok.data.remote.RETRY_SECONDS", (0.0, 0.0))

    def gone(path):
        raise ConnectionError("no route")

    monkeypatch.setattr(source.files.system, "cat_file", gone)
    with pytest.raises(VqtokError, match=r"does not answer.*no route"):
        list(source.read(plan.units[0].segments))


@pytest.mark.parametrize(
    ("source", "url", "split"),
    [
        ("hf://datasets/me/x:train", "hf://datasets/me/x", "train"),
        ("hf://datasets/me/x", "hf://datasets/me/x", None),
        ("hf://datasets/me/x@rev/data", "hf://datasets/me/x@rev/data", None),
        ("s3://bucket/x:train", "s3://bucket/x:train", None),
    ],
)
def test_a_name_on_the_hub_may_name_a_split(source, url, split):
    assert split_url(source) == (url, split)


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("data/train-00000-of-00002.parquet", True),
        ("train/x.png", True),
        ("train.parquet", True),
        ("data/training-0.parquet", False),
        ("retrain.parquet", False),
    ],
)
def test_file_names_say_their_split(name, belongs):
    assert of_split(name, "train") is belongs


def test_a_split_chooses_files(tmp_path):
    for name in ("train-0.parquet", "test-0.parquet"):
        pq.write_table(pa.table({"image": [png(0)]}), tmp_path / name)

    assert open_source(tmp_path, split="test").names == ["test-0.parquet"]
    with pytest.raises(InputError, match="split 'validation'"):
        open_source(tmp_path, split="validation")


@pytest.mark.parametrize("kind", ["shards", "lines", "table"])
def test_a_source_travels_to_another_process_in_the_middle_of_reading(kind, shards, tmp_path):
    (tmp_path / "lines.jsonl").write_text(
        "".join(json.dumps({"text": str(i)}) + "\n" for i in range(9))
    )
    pq.write_table(pa.table({"image": [png(i) for i in range(9)]}), tmp_path / "t.parquet")
    path = {"shards": shards, "lines": tmp_path / "lines.jsonl", "table": tmp_path / "t.parquet"}
    source = open_source(path[kind], "text" if kind == "lines" else "image")
    plan = build_plan(source.list(), 2)
    before = [[s.data for s in source.read(unit.segments)] for unit in plan.units[:2]]

    copy = pickle.loads(pickle.dumps(source))

    rest = [[s.data for s in copy.read(unit.segments)] for unit in plan.units]
    assert rest[:2] == before
    assert rest[2:] == [[s.data for s in source.read(unit.segments)] for unit in plan.units[2:]]


def test_columns_are_of_tables(photos):
    with pytest.raises(ConfigError, match="plain files"):
        open_source(photos, keep=["label"])
