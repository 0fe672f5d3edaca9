"""Streams for training: every row once, and exactly where one stopped."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from vqtok.data import CodesStream, map_codes, open_run, tokenize_dataset
from vqtok.errors import ConfigError, FormatError

ROWS = 37


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """37 images, one of them broken, in units of 5."""
    root = tmp_path_factory.mktemp("stream")
    (root / "images").mkdir()
    for index in range(ROWS):
        data = b"broken" if index == 11 else png(index, 8 + index % 3 * 8, 16)
        (root / f"images/{index:02d}.png").write_bytes(data)
    tokenize_dataset(root / "images", root / "codes", FakeTokenizer(), unit_rows=5)
    return root / "codes"


def names(rows) -> list[str]:
    return [row["src"] for row in rows]


ALL = [f"{index:02d}.png" for index in range(ROWS) if index != 11]


def test_without_a_seed_rows_come_in_the_order_of_the_source(codes):
    rows = list(CodesStream(codes, seed=None))

    assert names(rows) == ALL
    stored = [row for row in open_run(codes).rows() if row["codes"] is not None]
    for row, own in zip(rows, stored, strict=True):
        assert row["codes"].dtype == torch.int64
        assert np.array_equal(row["codes"].numpy(), own["codes"])


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(codes):
    stream = CodesStream(codes, seed=3)

    epochs = [names(stream) for _ in range(3)]
    again = CodesStream(codes, seed=3)
    again.set_epoch(1)

    assert all(sorted(epoch) == ALL for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert names(again) == epochs[1]


@settings(max_examples=25, deadline=None)
@given(world=st.integers(1, 7), seed=st.integers(0, 5) | st.none(), epoch=st.integers(0, 3))
def test_ranks_share_an_epoch_without_overlap_and_evenly(codes, world, seed, epoch):
    shares = []
    for rank in range(world):
        stream = CodesStream(codes, ("src",), seed, rank, world)
        stream.set_epoch(epoch)
        shares.append(names(stream))

    assert sorted(name for share in shares for name in share) == ALL
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 18), seed=st.integers(0, 5) | st.none())
def test_a_stream_goes_on_exactly_where_it_stopped(codes, stop, seed):
    whole = CodesStream(codes, ("src",), seed, rank=1, world=2)
    expected = names(whole) + names(whole)

    first = CodesStream(codes, ("src",), seed, rank=1, world=2)
    rows = iter(first)
    got = [next(rows)["src"] for _ in range(stop)]
    state = json.loads(json.dumps(first.state_dict()))
    second = CodesStream(codes, ("src",), seed, rank=1, world=2)
    second.load_state_dict(state)
    got += names(second) + names(second)

    assert got == expected


def test_a_state_of_another_share_is_refused(codes):
    stream = CodesStream(codes, rank=0, world=2)
    next(iter(stream))

    for other in (CodesStream(codes, rank=1, world=2), CodesStream(codes, seed=9, rank=0, world=2)):
        other.load_state_dict(stream.state_dict())
        with pytest.raises(ConfigError, match="cannot go on"):
            next(iter(other))
    with pytest.raises(ConfigError, match="rank"):
        CodesStream(codes, rank=2, world=2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_loader_workers_share_the_rows_of_their_rank(codes):
    stream = CodesStream(codes, ("src",), seed=1, rank=0, world=2)
    other = CodesStream(codes, ("src",), seed=1, rank=1, world=2)

    rows = [
        row for part in (stream, other) for row in DataLoader(part, batch_size=None, num_workers=2)
    ]

    assert sorted(names(rows)) == ALL


def test_an_unfinished_run_is_refused_unless_allowed(codes, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(codes, copy)
    (copy / "vqtok.json").unlink()

    with pytest.raises(FormatError, match="unfinished"):
        CodesStream(copy)
    with pytest.raises(FormatError, match="unfinished"):
        map_codes(copy)
    assert len(list(CodesStream(copy, allow_incomplete=True))) == ROWS - 1
