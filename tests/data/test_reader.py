"""Codes read back, and turned back into files."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer, TwoLevels
from vqtok.data import (
    CodesStream,
    decode_dataset,
    load_codes,
    map_codes,
    run_report,
    stored_tokenizer,
    tokenize_dataset,
)
from vqtok.data.reader import check_decodes, open_run
from vqtok.errors import ConfigError, FingerprintError, FormatError


@pytest.fixture
def codes(photos, tmp_path, tokenizer):
    tokenize_dataset(photos, tmp_path / "codes", tokenizer, unit_rows=4)
    return tmp_path / "codes"


def test_load_codes_gives_the_rows_of_all_units_in_order(codes):
    loaded = load_codes(codes)

    assert loaded.num_rows == 10
    assert loaded["src"] == sorted(loaded["src"])
    assert np.prod(loaded[3]["shape"]) == len(loaded[3]["codes"])


KEPT = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "thumb": datasets.Image(),
        "box": datasets.List(datasets.Value("float32"), length=4),
        "grid": datasets.Array2D((2, 3), "float32"),
    }
)


@pytest.fixture
def with_kept_columns(tmp_path):
    """Six images of a table with columns of every kind, one without a thumbnail, in three units."""
    picture = {"bytes": png(9), "path": None}
    rows = [
        {
            "image": {"bytes": png(index), "path": None},
            "label": index % 2,
            "thumb": None if index == 2 else picture,
            "box": [1.0, 2.0, 3.0, 4.0],
            "grid": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        }
        for index in range(6)
    ]
    datasets.Dataset.from_list(rows, features=KEPT).to_parquet(tmp_path / "in.parquet")
    keep = [name for name in KEPT if name != "image"]
    tokenize_dataset(
        tmp_path / "in.parquet", tmp_path / "kept", FakeTokenizer(), unit_rows=2, keep=keep
    )
    return tmp_path / "kept"


@pytest.mark.parametrize("how", ["load_codes", "parquet", "folder", "streaming"])
def test_every_way_to_load_a_run_gives_the_same_rows_and_features(with_kept_columns, how):
    folder = str(with_kept_columns)
    files = f"{folder}/data/*.parquet"
    loaded = {
        "load_codes": lambda: load_codes(folder),
        "parquet": lambda: datasets.load_dataset("parquet", data_files=files, split="train"),
        "folder": lambda: datasets.load_dataset(folder, split="train"),
        "streaming": lambda: datasets.load_dataset(folder, split="train", streaming=True),
    }[how]()

    assert {name: loaded.features[name] for name in KEPT if name != "image"} == {
        name: kind for name, kind in KEPT.items() if name != "image"
    }
    rows = list(loaded)
    assert [row["src_row"] for row in rows] == list(range(6))
    assert [row["thumb"] is None for row in rows] == [False, False, True, False, False, False]
    assert rows[0]["thumb"].size == (24, 16)
    assert rows[0]["grid"] == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    own = [list(row["codes"].ravel()) for row in open_run(folder).rows()]
    assert [row["codes"] for row in rows] == own


def test_codes_become_tensors_with_the_torch_format(with_kept_columns):
    row = load_codes(with_kept_columns).with_format("torch")[1]

    assert row["codes"].dtype == torch.int64
    assert row["codes"].reshape(*row["shape"].tolist()).shape == (1, 2, 3)
    assert row["label"] == 1


@pytest.mark.parametrize("inputs", [[b""], [b"", b"x"], [png(1)], [b"", png(1), b"", png(2)]])
def test_runs_of_one_row_and_of_bad_rows_have_the_same_columns(codes, tmp_path, inputs):
    (tmp_path / "few").mkdir()
    for index, data in enumerate(inputs):
        (tmp_path / f"few/{index}.png").write_bytes(data)
    tokenize_dataset(tmp_path / "few", tmp_path / "out", FakeTokenizer(), unit_rows=1)

    loaded = load_codes(tmp_path / "out")

    assert loaded.features == load_codes(codes).features
    assert [row["codes"] is None for row in loaded] == [len(data) < 9 for data in inputs]
    assert datasets.load_dataset(str(tmp_path / "out"), split="train")[0] == loaded[0]


def test_rows_of_another_tokenizer_are_not_decoded(photos, codes, tmp_path):
    """What `load_codes` gives goes into `detokenize`, which looks at codes_fp."""
    row = load_codes(codes)[0]

    assert row["codes_fp"] == "d" * 16
    with pytest.raises(FingerprintError):
        check_decodes(open_run(codes), FakeTokenizer(decode="0" * 64))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["units"][0].update(file="../../secret.parquet"), "no file of a run"),
        (lambda c: c["units"][0].update(file="/etc/passwd"), "no file of a run"),
        (lambda c: c["units"].insert(0, "x"), r"units\[0\] should be of type dict"),
        (lambda c: c["tokenizer"].pop("fingerprint"), "fingerprint is missing in tokenizer"),
        (lambda c: c["tokenizer"].update(codebook_sizes=["9"]), r"codebook_sizes\[0\] should be"),
        (lambda c: c["options"].update(num_codebooks=True), "num_codebooks should be"),
    ],
)
def test_a_damaged_manifest_is_refused_by_every_reader(codes, change, says):
    content = json.loads((codes / "vqtok.json").read_text())
    change(content)
    (codes / "vqtok.json").write_text(json.dumps(content))

    for reader in (load_codes, map_codes, CodesStream, run_report):
        with pytest.raises(FormatError, match=says):
            reader(codes)


def test_an_unfinished_run_is_refused_unless_allowed(codes):
    (codes / "vqtok.json").unlink()
    (codes / "data/train-00002-of-00003.parquet").unlink()

    with pytest.raises(FormatError, match="unfinished"):
        load_codes(codes)
    assert load_codes(codes, allow_incomplete=True).num_rows == 8


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FormatError, match="not a folder of codes"):
        load_codes(tmp_path)


def test_a_run_with_a_missing_or_damaged_file_is_refused(codes):
    file = codes / "data/train-00001-of-00003.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FormatError, match="cannot be read"):
        load_codes(codes)

    file.unlink()
    with pytest.raises(FormatError, match="has lost 1 of its 3 files"):
        load_codes(codes)


def test_a_run_of_another_schema_is_refused(codes):
    manifest = json.loads((codes / "vqtok.json").read_text())
    (codes / "vqtok.json").write_text(json.dumps(manifest | {"schema": 2}))

    with pytest.raises(FormatError, match="schema 2"):
        load_codes(codes)


def test_decode_gives_what_detokenize_gives_under_the_names_of_the_source(
    photos, codes, tmp_path, tokenizer
):
    report = decode_dataset(codes, tmp_path / "back", tokenizer)

    sources = sorted(photos.glob("*/*"))
    written = sorted(path for path in (tmp_path / "back").rglob("*") if path.is_file())
    assert report.files == len(written) == 10
    for source, back in zip(sources, written, strict=True):
        assert back.relative_to(tmp_path / "back") == source.relative_to(photos).with_suffix(".png")
        (image,) = tokenizer.detokenize(tokenizer.tokenize([source.read_bytes()]))
        with Image.open(back) as found:
            assert found.size == image.size
            assert np.array_equal(np.array(found), np.array(image))


def test_inputs_that_share_a_name_get_files_of_their_own(tmp_path, tokenizer):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    names = ["a.jpg", "a.png", "a.jpg.gif", "B.png", "b.webp", "c.png", "sub/a.jpg"]
    for index, name in enumerate(names):
        (source / name).write_bytes(png(index))
    tokenize_dataset(source, tmp_path / "codes", tokenizer)

    decode_dataset(tmp_path / "codes", tmp_path / "back", tokenizer)

    found = {str(p.relative_to(tmp_path / "back")) for p in (tmp_path / "back").rglob("*.png")}
    assert found == {
        *("a.jpg.png", "a.jpg-2.png", "a.png.png", "B.png.png", "b.webp.png", "c.png"),
        "sub/a.png",
    }
    pictures = {(tmp_path / "back" / name).read_bytes() for name in found}
    assert len(pictures) == len(names)


def test_rows_of_a_table_become_numbered_files(tmp_path, tokenizer):
    table = pa.table({"image": pa.array([png(i) for i in range(3)], pa.binary())})
    pq.write_table(table, tmp_path / "train.parquet")
    tokenize_dataset(tmp_path / "train.parquet", tmp_path / "codes", tokenizer)

    decode_dataset(tmp_path / "codes", tmp_path / "back", tokenizer)

    found = sorted(str(p.relative_to(tmp_path / "back")) for p in tmp_path.rglob("back/**/*.png"))
    assert found == [f"train/{i:07d}.png" for i in range(3)]


def test_rows_without_codes_are_skipped_and_counted(mixed, tmp_path, tokenizer):
    tokenize_dataset(mixed[0], tmp_path / "codes", tokenizer)

    report = decode_dataset(tmp_path / "codes", tmp_path / "back", tokenizer)

    assert (report.files, report.skipped) == (2, 4)
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["a.png", "f.png"]


def test_several_codebooks_come_back_in_their_shape(photos, tmp_path):
    tokenize_dataset(photos, tmp_path / "codes", TwoLevels())

    report = decode_dataset(tmp_path / "codes", tmp_path / "back", TwoLevels())

    assert report.files == 10
    row = next(open_run(tmp_path / "codes").rows())
    assert row["codes"].shape == tuple(row["shape"])
    assert row["codes"].dtype == np.int64


@pytest.mark.parametrize(
    ("part", "says"), [("decode", "decoder is another"), ("both", "codebook is another")]
)
def test_decode_refuses_another_tokenizer(codes, tmp_path, part, says):
    codebook = "0" * 64 if part == "both" else "c" * 64
    other = FakeTokenizer(decode="0" * 64, codebook=codebook)

    with pytest.raises(FingerprintError, match=says):
        decode_dataset(codes, tmp_path / "back", other)
    assert not (tmp_path / "back").exists()


def test_an_encoder_that_differs_may_decode(codes, tmp_path):
    assert decode_dataset(codes, tmp_path / "back", FakeTokenizer(encode="0" * 64)).files == 10


def test_rows_of_another_run_among_the_files_are_found(photos, codes, tmp_path):
    tokenize_dataset(photos, tmp_path / "other", FakeTokenizer(decode="0" * 64), unit_rows=4)
    name = "data/train-00001-of-00003.parquet"
    (codes / name).write_bytes((tmp_path / "other" / name).read_bytes())

    with pytest.raises(FingerprintError, match="mixes two runs"):
        decode_dataset(codes, tmp_path / "back", FakeTokenizer())


def test_decode_does_not_write_into_a_folder_in_use(codes, photos, tokenizer):
    with pytest.raises(ConfigError, match="not an empty folder"):
        decode_dataset(codes, photos, tokenizer)


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "a\\..\\e.png"])
def test_names_that_leave_the_folder_are_refused(codes, tmp_path, tokenizer, name):
    file = codes / "data/train-00000-of-00003.parquet"
    table = pq.read_table(file)
    names = pa.array([name, *table["src"].to_pylist()[1:]])
    table = table.set_column(table.schema.get_field_index("src"), "src", names)
    pq.write_table(table, file)

    with pytest.raises(FormatError, match="not a name inside a folder"):
        decode_dataset(codes, tmp_path / "back", tokenizer)


def test_a_run_names_its_tokenizer(photos, codes, tmp_path, tokenizer):
    tokenizer.name_or_path = ""
    tokenize_dataset(photos, tmp_path / "nameless", tokenizer)

    assert stored_tokenizer(codes) == "fake/mean-colour"
    with pytest.raises(FormatError, match="--tokenizer"):
        stored_tokenizer(tmp_path / "nameless")
