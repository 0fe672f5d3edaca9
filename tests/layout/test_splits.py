"""Training and validation share no input: each is whole in one split, packed or not."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layout.cases import layout_of, random_row, vocabulary
from tests.layout.readers import READERS
from vqtok.errors import ConfigError
from vqtok.layout import Encoded, Layout
from vqtok.layout.export import export_sequences
from vqtok.layout.export.split import LOOK_AHEAD, split_items

VOCAB = vocabulary()
SEQUENCE = layout_of("class_image", VOCAB)
LAYOUT = Layout(VOCAB, {"class_image": SEQUENCE})
BLOCK = 57  # no multiple of a length: concat cuts nearly every row


def documents(count):
    rng = np.random.default_rng(0)
    return [
        SEQUENCE.encode(random_row(rng, SEQUENCE), key=f"item {index} +[{index}]")
        for index in range(count)
    ]


def pieces(rows):
    """The sequences in the rows of a split: each begins with <bos>, none is broken off."""
    stream = np.concatenate([np.asarray(row) for row in rows])
    stream = stream[stream != VOCAB.special("pad")]
    starts = np.flatnonzero(stream == VOCAB.special("bos"))
    assert starts[0] == 0
    return np.split(stream, starts[1:])


@pytest.mark.parametrize("to", ["nanogpt", "megatron", "hf"])
@pytest.mark.parametrize("packing", ["concat", "best_fit", "none"])
def test_every_input_is_whole_in_exactly_one_split(to, packing, tmp_path):
    given = documents(200)
    options = {"packing": packing, "block_size": BLOCK, "val_fraction": 0.1}

    report = export_sequences(given, tmp_path / "out", to, LAYOUT, **options)

    wanted = {"val": given[9::10]}
    wanted["train"] = [s for index, s in enumerate(given) if index % 10 != 9]
    for split in ("train", "val"):
        rows = READERS[to](tmp_path / "out", split)
        found = pieces(rows)
        for ids in found:
            SEQUENCE.decode(ids)  # whole
        ids = sorted(s.ids.tolist() for s in wanted[split])
        assert sorted(piece.tolist() for piece in found) == ids
        if to != "nanogpt":
            assert {len(row) for row in rows} == {BLOCK}
            assert report.rows[split] == len(rows)


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_keys_of_a_packed_row_name_its_pieces(packing, tmp_path):
    given = documents(30)
    options = {"packing": packing, "block_size": BLOCK, "val_fraction": 0.2}
    for to in ("hf", "memmap"):
        export_sequences(given, tmp_path / to, to, LAYOUT, **options)

    by_key = {sequence.key: sequence.ids.tolist() for sequence in given}
    for split in ("train", "val"):
        (file,) = (tmp_path / "hf/data").glob(f"{split}-*.parquet")
        rows = pq.read_table(file).to_pylist()
        lines = (tmp_path / f"memmap/{split}.keys.jsonl").read_text().splitlines()
        assert [json.loads(row["key"]) for row in rows] == list(map(json.loads, lines))
        together = {}
        for row in rows:
            owners, ids = np.array(row["document_ids"]), np.array(row["input_ids"])
            inside = list(dict.fromkeys(owners[owners >= 0].tolist()))
            for owner, key in zip(inside, json.loads(row["key"]), strict=True):
                together.setdefault(key, []).extend(ids[owners == owner].tolist())
        assert together == {key: by_key[key] for key in together}
    assert any(row["key"].count("item") > 1 for row in rows)


def test_a_key_that_looks_like_a_list_is_told_from_one(tmp_path):
    ids = documents(1)[0]
    keys = ["plain", '["a", "b"]', '"quoted"', ("a", "b")]
    given = [Encoded(ids.ids, ids.loss_mask, key) for key in keys]

    export_sequences(given, tmp_path / "out", "hf", LAYOUT)

    (file,) = (tmp_path / "out/data").glob("*.parquet")
    found = pq.read_table(file)["key"].to_pylist()
    assert found[0] == "plain"
    assert [json.loads(key) for key in found[1:]] == ['["a", "b"]', '"quoted"', ["a", "b"]]


@pytest.mark.parametrize("packing", [{}, {"packing": "concat", "block_size": BLOCK}])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_few_rows_have_one_for_validation_by_default(count, packing, tmp_path):
    given = documents(count)

    export_sequences(given, tmp_path / "out", "nanogpt", LAYOUT, **packing)

    (val,) = pieces(READERS["nanogpt"](tmp_path / "out", "val"))
    train = pieces(READERS["nanogpt"](tmp_path / "out", "train"))
    assert val.tolist() == given[-1].ids.tolist()
    assert [ids.tolist() for ids in train] == [s.ids.tolist() for s in given[:-1]]


@pytest.mark.parametrize(("count", "share"), [(1, None), (9, 0.1), (99, 0.01)])
def test_nothing_for_validation_is_found_out_before_anything_is_written(
    count, share, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: pytest.fail("a folder was made"))

    with pytest.raises(ConfigError, match="none fell into validation"):
        export_sequences(documents(count), tmp_path / "out", "nanogpt", LAYOUT, val_fraction=share)


@given(count=st.integers(1, 300), share=st.floats(0.001, 0.999))
def test_the_first_rows_hold_their_share_whatever_their_number(count, share):
    if int(count * share) == 0:
        with pytest.raises(ConfigError, match="none fell"):
            list(split_items(iter(range(count)), share, 0.0)[1])
        return

    splits, placed = split_items(iter(range(count)), share, 0.0)
    placed = list(placed)

    assert splits == ["train", "val"]
    assert [item for _, item in placed] == list(range(count))
    for length in range(1, count + 1):
        taken = sum(split == "val" for split, _ in placed[:length])
        assert taken == int(length * share)


def test_a_small_share_of_many_rows_does_not_wait_for_the_first():
    read = []
    items = (read.append(index) or index for index in range(100_000))

    _, placed = split_items(items, 1e-5, 0.0)

    assert len(read) == LOOK_AHEAD
    assert [item for split, item in placed if split == "val"] == [99_999]
    with pytest.raises(ConfigError, match="of 5000 sequences none"):
        list(split_items(iter(range(5_000)), 1e-5, 0.0)[1])
