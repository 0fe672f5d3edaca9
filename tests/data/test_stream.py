"""A stream's laws for every number of ranks and workers, every buffer and every place to stop."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from vqtok.data import CodesStream, open_run, stream, tokenize_dataset
from vqtok.errors import ConfigError, FormatError

ROWS = 61
BROKEN = {0, 17, 18, 60}
ALL = [f"{index:02d}.png" for index in range(ROWS) if index not in BROKEN]


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """61 images in units of 7, four of them broken."""
    root = tmp_path_factory.mktemp("stream")
    (root / "images").mkdir()
    for index in range(ROWS):
        data = b"broken" if index in BROKEN else png(index, 8 + index % 3 * 8, 16)
        (root / f"images/{index:02d}.png").write_bytes(data)
    tokenize_dataset(root / "images", root / "codes", FakeTokenizer(), unit_rows=7)
    return root / "codes"


@pytest.fixture
def as_worker(monkeypatch):
    """Makes this process look like a loader worker to streams."""

    def pretend(worker: int, workers: int) -> None:
        info = SimpleNamespace(id=worker, num_workers=workers)
        monkeypatch.setattr(stream, "get_worker_info", lambda: info)

    return pretend


def names(rows) -> list[str]:
    return [row["src"] for row in rows]


LAYOUTS = st.fixed_dictionaries(
    {
        "world": st.integers(1, 4),
        "workers": st.integers(1, 3),
        "seed": st.integers(0, 9) | st.none(),
        "epoch": st.integers(0, 3),
        "shuffle_rows": st.integers(1, 100),
    }
)


def consumer(codes, layout, rank, **options) -> CodesStream:
    made = CodesStream(
        codes,
        ("src",),
        layout["seed"],
        rank,
        layout["world"],
        shuffle_rows=layout["shuffle_rows"],
        **options,
    )
    made.set_epoch(layout["epoch"])
    return made


@settings(max_examples=40, deadline=None)
@given(layout=LAYOUTS, stop=st.integers(0, 70), equal=st.booleans())
def test_every_row_goes_to_one_consumer_and_a_state_gives_exactly_the_rest(
    codes, layout, stop, equal
):
    ranks, whole = [], stream.get_worker_info
    try:
        for rank in range(layout["world"]):
            share = []
            for worker in range(layout["workers"]):
                info = SimpleNamespace(id=worker, num_workers=layout["workers"])
                stream.get_worker_info = lambda info=info: info
                expected = names(consumer(codes, layout, rank, equal=equal))

                first = consumer(codes, layout, rank, equal=equal)
                rows = iter(first)
                got = [row["src"] for row in itertools.islice(rows, stop)]
                state = json.loads(json.dumps(first.state_dict()))
                second = consumer(codes, layout, rank, equal=equal)
                second.load_state_dict(state)
                # a state behind the last row is that of the next epoch's first
                got += names(second) if stop <= len(expected) else []

                assert got == expected
                share += expected
            assert len(share) == len(consumer(codes, layout, rank, equal=equal))
            ranks.append(share)
    finally:
        stream.get_worker_info = whole

    seen = [name for share in ranks for name in share]
    assert len(set(seen)) == len(seen)
    sizes = set(map(len, ranks))
    if equal:
        assert sizes == {len(ALL) // layout["world"]}
    else:
        assert sorted(seen) == ALL
        assert max(sizes) - min(sizes) <= 1


def test_what_sits_out_for_equal_shares_is_another_part_in_another_epoch(codes):
    out = []
    for epoch in range(6):
        seen = []
        for rank in range(4):
            part = CodesStream(codes, ("src",), seed=1, rank=rank, world=4, equal=True)
            part.set_epoch(epoch)
            seen += names(part)
        out.append(set(ALL) - set(seen))

    assert {len(missing) for missing in out} == {len(ALL) % 4}
    assert len(set().union(*out)) > 1


def test_a_consumer_reads_its_own_part_of_the_files_only(codes, monkeypatch):
    opened = []
    monkeypatch.setattr(
        stream, "open_group", lambda *a, real=stream.open_group: opened.append(a[1]) or real(*a)
    )
    per_rank = []
    for rank in range(4):
        opened.clear()
        list(CodesStream(codes, ("src",), seed=5, rank=rank, world=4))
        per_rank.append(len(opened))

    groups = len(CodesStream(codes).groups)
    assert sum(per_rank) <= groups + 3  # a group where two parts meet is read twice


def test_going_on_late_in_an_epoch_does_not_read_what_was_given_before(codes, monkeypatch):
    whole = CodesStream(codes, ("src",), seed=5, shuffle_rows=4)
    rows = iter(whole)
    for _ in range(50):
        next(rows)
    late = CodesStream(codes, ("src",), seed=5, shuffle_rows=4)
    late.load_state_dict(whole.state_dict())
    opened = []
    monkeypatch.setattr(
        stream, "open_group", lambda *a, real=stream.open_group: opened.append(a[1]) or real(*a)
    )

    assert len(list(late)) == len(ALL) - 50
    assert len(opened) <= 3


def test_a_larger_buffer_mixes_more_files(codes):
    def first_files(rows: int) -> int:
        made = CodesStream(codes, ("src",), seed=2, shuffle_rows=rows)
        return len({int(name[:2]) // 7 for name in names(made)[:12]})

    assert first_files(1) < first_files(1000)


def test_leaving_an_epoch_early_begins_it_anew_and_its_end_begins_the_next(codes):
    made = CodesStream(codes, ("src",), seed=0)
    list(itertools.islice(made, 7))
    again, second = names(made), names(made)

    assert sorted(again) == sorted(second) == ALL
    assert again == names(CodesStream(codes, ("src",), seed=0))
    assert again != second
    assert made.epoch == 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("persistent", [False, True])
def test_loader_workers_hear_of_a_new_epoch(codes, persistent):
    made = CodesStream(codes, ("src",), seed=0)
    loader = DataLoader(made, batch_size=None, num_workers=2, persistent_workers=persistent)

    epochs = []
    for epoch in (0, 1, 1):
        made.set_epoch(epoch)
        epochs.append(names(loader))

    assert len(loader) == len(ALL)
    assert all(sorted(epoch) == ALL for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[1] == epochs[2]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_states_of_loader_workers_give_each_the_rest_of_its_own_share(codes):
    """What torchdata's StatefulDataLoader does: a state of each worker, given to that worker."""
    whole = [names(DataLoader(Worker(codes, None), batch_size=None, num_workers=2))]
    loader = iter(DataLoader(Worker(codes, None), batch_size=None, num_workers=2))
    rows = [next(loader) for _ in range(20)]
    states = {row["state"]["worker"]: row["state"] for row in rows}
    rest = names(DataLoader(Worker(codes, states), batch_size=None, num_workers=2))

    assert len(states) == 2
    assert names(rows) + rest == whole[0]


class Worker(torch.utils.data.IterableDataset):
    """Rows with the state after each; begins with the state of its own worker, if there is one."""

    def __init__(self, codes, states):
        self.stream, self.states = CodesStream(codes, ("src",), seed=4), states

    def __iter__(self):
        if self.states:
            self.stream.load_state_dict(self.states[stream.get_worker_info().id])
        for row in self.stream:
            yield row | {"state": self.stream.state_dict()}


def test_a_state_names_what_is_other_now(codes, as_worker):
    made = CodesStream(codes, seed=0, rank=0, world=2)
    next(iter(made))
    state = made.state_dict()

    others = {
        "seed 0, now 1": CodesStream(codes, seed=1, rank=0, world=2),
        "rank 0, now 1": CodesStream(codes, seed=0, rank=1, world=2),
        "world 2, now 3": CodesStream(codes, seed=0, rank=0, world=3),
        "shuffle_rows 16384, now 5": CodesStream(codes, rank=0, world=2, shuffle_rows=5),
        "equal False, now True": CodesStream(codes, rank=0, world=2, equal=True),
    }
    for says, other in others.items():
        other.load_state_dict(state)
        with pytest.raises(ConfigError, match=says):
            next(iter(other))
    as_worker(1, 3)
    made.load_state_dict(state)
    with pytest.raises(ConfigError, match="worker 0, now 1; workers 1, now 3"):
        next(iter(made))


def test_a_file_that_loses_rows_under_a_stream_is_noticed(codes, tmp_path):
    import shutil

    import pyarrow.parquet as pq

    copy = tmp_path / "copy"
    shutil.copytree(codes, copy)
    made = CodesStream(copy, seed=None)
    path = open_run(copy).files[2]
    pq.write_table(pq.read_table(path).slice(1), path)

    with pytest.raises(FormatError, match="is not what it was"):
        list(made)


def test_wrong_options_are_refused(codes):
    with pytest.raises(ConfigError, match="no columns"):
        CodesStream(codes, ("src", "caption"))
    with pytest.raises(ConfigError, match="shuffle_rows"):
        CodesStream(codes, shuffle_rows=0)


def test_codes_can_be_changed_without_changing_the_next_epoch(codes):
    made = CodesStream(codes, seed=None)
    for row in made:
        row["codes"] += 7
    rows = [row for row in open_run(codes).rows() if row["codes"] is not None]

    for row, own in zip(made, rows, strict=True):
        assert np.array_equal(row["codes"], own["codes"])
