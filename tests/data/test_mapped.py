"""Memory maps: the codes of every row, made once however many processes ask, never half."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer, TwoLevels
from tests.data.fake_others import FakeText
from vqtok.data import map_codes, mapped, open_run, tokenize_dataset
from vqtok.errors import FormatError, ShapeError


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """37 images of three sizes, one of them broken, in units of 5."""
    root = tmp_path_factory.mktemp("mapped")
    (root / "images").mkdir()
    for index in range(37):
        data = b"broken" if index == 11 else png(index, 8 + index % 3 * 8, 16)
        (root / f"images/{index:02d}.png").write_bytes(data)
    tokenize_dataset(root / "images", root / "codes", FakeTokenizer(), unit_rows=5)
    return root / "codes"


@pytest.mark.parametrize("tokenizer", [FakeTokenizer(), TwoLevels(), FakeText()])
def test_a_map_has_the_codes_of_every_row(codes, tmp_path, tokenizer):
    source = codes.parent / "images"
    if tokenizer.modality == "text":
        source = tmp_path / "texts"
        source.mkdir()
        for index, data in enumerate([b"one", b"", b"\xff", b"three"]):
            (source / f"{index}.txt").write_bytes(data)
    tokenize_dataset(source, tmp_path / "codes", tokenizer, unit_rows=7)

    mapped = map_codes(tmp_path / "codes")

    stored = list(open_run(tmp_path / "codes").rows())
    assert len(mapped) == len(stored)
    for index, row in enumerate(stored):
        if row["codes"] is None:
            assert mapped[index] is None
        else:
            assert mapped[index].dtype == np.int64
            assert np.array_equal(mapped[index], row["codes"])
            assert mapped[index].shape == row["codes"].shape
    assert mapped[-1] is not None
    with pytest.raises(IndexError):
        mapped[len(stored)]


def test_a_map_is_made_once_and_again_for_another_run(codes, tmp_path):
    out = tmp_path / "codes"
    tokenize_dataset(codes.parent / "images", out, FakeTokenizer(), unit_rows=9)
    map_codes(out)
    (file,) = out.glob(".vqtok/map/*/codes.bin")
    before = file.stat().st_mtime_ns
    map_codes(out)
    same = file.stat().st_mtime_ns
    file.write_bytes(b"")

    assert before == same
    with pytest.raises(FormatError, match="damaged"):
        map_codes(out)
    (out / "vqtok.json").write_text((out / "vqtok.json").read_text() + "\n")
    assert map_codes(out)[0] is not None
    assert len(list(out.glob(".vqtok/map/*/codes.bin"))) == 1


def length(folder, wait) -> int:
    wait.wait()
    return len(map_codes(folder).values)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_ask_at_once_all_get_the_map(codes, tmp_path):
    out = tmp_path / "codes"
    tokenize_dataset(codes.parent / "images", out, FakeTokenizer())
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager, context.Pool(4) as pool:
        together = manager.Barrier(4)
        found = pool.starmap(length, [(out, together)] * 4)

    assert found == [len(map_codes(out).values)] * 4
    assert sorted(path.name for path in (out / ".vqtok/map").iterdir())[-1] == "lock"
    assert len(list((out / ".vqtok/map").iterdir())) == 2


def test_a_map_that_was_cut_off_leaves_nothing(codes, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*arguments):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(mapped, "_padded", stop)
        with pytest.raises(Stop):
            map_codes(codes, tmp_path / "cache")

    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]
    assert len(map_codes(codes, tmp_path / "cache")) == 37


def test_a_map_may_lie_elsewhere_and_travels_by_its_name(codes, tmp_path):
    made = map_codes(codes, tmp_path / "cache")
    there = pickle.loads(pickle.dumps(made))

    assert not (codes / ".vqtok/map").exists()
    assert len(pickle.dumps(made)) < 1000
    assert np.array_equal(there[5], made[5])
    assert made.good.tolist() == [row for row in range(37) if row != 11]


def test_rows_of_one_shape_are_one_array_and_others_are_refused(codes, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(5):
        (tmp_path / f"in/{index}.png").write_bytes(b"" if index == 2 else png(index))
    tokenize_dataset(tmp_path / "in", tmp_path / "out", FakeTokenizer())

    array = map_codes(tmp_path / "out").as_array()

    stored = [row["codes"] for row in open_run(tmp_path / "out").rows() if row["status"] == "ok"]
    assert array.dtype == np.uint16
    assert np.array_equal(array, np.stack(stored))
    with pytest.raises(ShapeError, match=r"has 3: \[\[1, 1, 2\], \[1, 2, 2\], \[1, 3, 2\]\]"):
        map_codes(codes, tmp_path / "cache").as_array()


def test_a_run_without_any_codes_has_a_map_of_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"")
    tokenize_dataset(tmp_path / "in", tmp_path / "out", FakeTokenizer())

    made = map_codes(tmp_path / "out")

    assert [len(made), made[0], len(made.good)] == [1, None, 0]
    with pytest.raises(ShapeError):
        made.as_array()


def test_a_manifest_that_counts_other_rows_gives_no_map(codes, tmp_path):
    import shutil

    shutil.copytree(codes, tmp_path / "copy")
    content = json.loads((tmp_path / "copy/vqtok.json").read_text())
    for wrong in (36, 38):
        content["totals"]["rows"] = wrong
        (tmp_path / "copy/vqtok.json").write_text(json.dumps(content))
        with pytest.raises(FormatError, match="does not hold the"):
            map_codes(tmp_path / "copy")
