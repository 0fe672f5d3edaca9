import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vqtok.data.modalities import MODALITIES
from vqtok.errors import ConfigError, InputError
from vqtok.training.text_data import (
    TEXT_SUFFIXES,
    RandomWindows,
    collate_windows,
    read_bytes,
    windows,
)


def test_the_files_of_a_folder_are_those_that_tokenize_takes():
    assert MODALITIES["text"].suffixes == TEXT_SUFFIXES


def test_texts_come_in_the_order_of_their_names_with_an_empty_line_between(tmp_path):
    (tmp_path / "b.txt").write_text("zweite ä", encoding="utf-8")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "notes.md").write_text("no text")
    pq.write_table(pa.table({"text": ["third", "fourth"]}), tmp_path / "c.parquet")

    data, part = read_bytes(tmp_path), read_bytes(tmp_path, limit=2)

    assert bytes(data).decode() == "first\n\nzweite ä\n\nthird\n\nfourth"
    assert bytes(part).decode() == "first\n\nzweite ä"


def test_a_row_that_is_no_text_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["one", None]}), tmp_path / "c.parquet")

    with pytest.raises(InputError, match=r"c\.parquet, row 1"):
        read_bytes(tmp_path)


def test_a_source_without_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="found none"):
        read_bytes(tmp_path)


def test_a_window_depends_on_seed_and_number_only():
    data = np.arange(200, dtype=np.uint8)
    long, short = RandomWindows(data, 100, 16, seed=3), RandomWindows(data, 40, 16, seed=3)

    forward = [short[i] for i in range(40)]
    backward = [long[i] for i in reversed(range(40))][::-1]

    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert all(torch.equal(a, torch.arange(int(a[0]), int(a[0]) + 16)) for a in forward)
    assert len({int(a[0]) for a in forward}) > 20


def test_both_ends_are_reached():
    data = np.arange(10, dtype=np.uint8)

    first = {int(RandomWindows(data, 100, 8, seed=0)[i][0]) for i in range(100)}

    assert first == {0, 1, 2}


def test_windows_for_a_report_are_whole():
    cut = windows(np.arange(10, dtype=np.uint8), 4)

    assert cut.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert collate_windows(list(cut))["byte_values"].dtype == torch.int64


def test_windows_larger_than_the_text_are_refused():
    data = np.zeros(10, np.uint8)

    with pytest.raises(ConfigError, match="10 bytes"):
        RandomWindows(data, 1, 11, seed=0)
    with pytest.raises(ConfigError, match="window of 11 bytes"):
        windows(data, 11)
