"""ConditionDropout: what is left out is left out whole, at the share asked for, and repeats."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings

from tests.layout.cases import TEMPLATES, layout_of, random_row, same_parts, seeds, vocabulary
from vqtok.errors import ConfigError, InputError, ShapeError
from vqtok.layout import ConditionDropout, Layout, SequenceLayout, export_sequences, pack

VOCAB = vocabulary()
# a label and text before codes
LAYOUT = SequenceLayout(
    VOCAB, "<bos>{class}{text}<boi>{height}{width}{image}<eoi><eos>", loss_on=["class", "image"]
)


@settings(deadline=None)
@given(seed=seeds)
def test_a_sequence_without_its_conditions_is_the_one_that_never_had_them(seed):
    row = random_row(np.random.default_rng(seed), LAYOUT)
    whole, bare = LAYOUT.encode(row), LAYOUT.encode(row | {"class": None, "text": []})

    ids, labels = ConditionDropout(LAYOUT, ["class", "text"], share=1)(
        whole.ids, 0, labels=whole.labels
    )

    assert np.array_equal(ids, bare.ids)
    assert np.array_equal(labels, bare.labels)
    assert ids.dtype == whole.ids.dtype
    assert same_parts(row | {"class": None, "text": []}, LAYOUT.decode(ids))


def test_one_condition_may_stay():
    row = random_row(np.random.default_rng(1), LAYOUT) | {"class": 2, "text": [1, 2]}
    ids = LAYOUT.encode(row).ids

    no_class, _ = ConditionDropout(LAYOUT, ["class"], share=1)(ids, 0)
    no_text, _ = ConditionDropout(LAYOUT, ["text"], share=1)(ids, 0)

    assert same_parts(row | {"class": None}, LAYOUT.decode(no_class))
    assert same_parts(row | {"text": []}, LAYOUT.decode(no_text))


def test_the_share_holds_every_epoch_differs_and_a_seed_repeats():
    drop, again = (ConditionDropout(LAYOUT, ["class"], 0.2, seed=3) for _ in range(2))

    falls = np.array([[drop.falls(i, epoch) for i in range(2_000)] for epoch in range(2)])

    assert np.abs(falls.mean(1) - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / 2_000)
    assert 0.25 < (falls[0] != falls[1]).mean() < 0.4  # 2 * 0.2 * 0.8 where they do not know
    assert falls[1].tolist() == [again.falls(i, 1) for i in range(2_000)]
    ids = LAYOUT.encode(random_row(np.random.default_rng(0), LAYOUT)).ids
    assert ConditionDropout(LAYOUT, ["class"], 0.0)(ids, 5)[0] is ids


@pytest.mark.parametrize("names", [[], ["height"], ["image"], ["style"]])
def test_what_cannot_be_left_out_is_refused(names):
    with pytest.raises(ConfigError, match="may be left out"):
        ConditionDropout(LAYOUT, names)
    with pytest.raises(ConfigError, match="0 to 1"):
        ConditionDropout(LAYOUT, ["class"], share=1.5)


def test_a_label_needs_the_special_null():
    vocab = type(VOCAB).build(
        VOCAB.streams.values(), specials=["bos", "eos", "pad", "boi", "eoi"],
        labels={"class": 3}, sizes={"height": 4, "width": 4},
    )  # fmt: skip

    with pytest.raises(ConfigError, match="no special 'null'"):
        ConditionDropout(SequenceLayout(vocab, TEMPLATES["class_image"][0]), ["class"])
    ConditionDropout(layout_of("text_to_image"), ["text"])  # text needs none


def examples(count):
    rng = np.random.default_rng(4)
    return [
        LAYOUT.encode(random_row(rng, LAYOUT) | {"class": 2, "text": [1, 2]}) for _ in range(count)
    ]


def test_what_an_export_gives_is_taken_in_every_form(tmp_path):
    given = examples(4)
    export_sequences(given, tmp_path / "out", "hf", Layout(VOCAB, {"a": LAYOUT}))
    (file,) = (tmp_path / "out/data").glob("*.parquet")
    layout = Layout.load(tmp_path / "out").sequence()
    drop = ConditionDropout(layout, ["class", "text"], share=0.5, seed=1)

    rows = pq.read_table(file).to_pylist()  # lists of int, as load_dataset gives them
    for index, (row, sequence) in enumerate(zip(rows, given, strict=True)):
        wanted = drop(sequence.ids, index, labels=sequence.labels)
        forms = [(row["input_ids"], row["labels"])]
        forms += [(torch.tensor(ids), torch.tensor(labels)) for ids, labels in forms]
        for ids, labels in forms:
            found = drop(ids, index, labels=labels)
            assert all(isinstance(array, np.ndarray) for array in found)
            assert [array.tolist() for array in found] == [array.tolist() for array in wanted]
    assert len({drop.falls(index) for index in range(4)}) == 2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_is_not_one_sequence_is_refused_whatever_the_coin_says(share):
    first, second = examples(2)
    drop = ConditionDropout(LAYOUT, ["class", "text"], share)
    both = np.concatenate([first.ids, second.ids])
    (packed,) = pack([first, second], "concat", both.size + 3, VOCAB.special("pad"))
    (padded,) = pack([first], "none", first.ids.size + 3, VOCAB.special("pad"))

    for ids in (both, packed.ids, first.ids[3:], first.ids[:-1], first.ids[:0]):
        with pytest.raises(InputError, match="before packing"):
            drop(ids, 0)
    for ids in (np.stack([first.ids] * 2), first.ids[0], first.ids.astype(float)):
        with pytest.raises(ShapeError):
            drop(ids, 0)
    with pytest.raises(ShapeError, match="labels"):
        drop(first.ids, 0, labels=first.labels[1:])
    drop(padded.ids, 0)
    # what was left out once may come again
    bare, _ = ConditionDropout(LAYOUT, ["class", "text"], 1.0)(first.ids, 0)
    assert np.array_equal(drop(bare, 0)[0], bare)


def test_numbers_below_0_are_refused():
    with pytest.raises(ConfigError, match="'seed': -1"):
        ConditionDropout(LAYOUT, ["class"], seed=-1)
    with pytest.raises(ConfigError, match="'epoch': -2"):
        ConditionDropout(LAYOUT, ["class"]).falls(0, -2)


@pytest.mark.parametrize("name", ["class_image", "text_to_image", "text_to_audio", "coarse"])
def test_every_sequence_of_a_template_is_taken(name):
    layout = layout_of(name)
    label = "class" if "class" in layout.inputs else "text"
    rng = np.random.default_rng(0)

    for index in range(20):
        row = random_row(rng, layout)
        ids, _ = ConditionDropout(layout, [label], 1.0)(layout.encode(row).ids, index)
        assert same_parts(row | {label: [] if label == "text" else None}, layout.decode(ids))
