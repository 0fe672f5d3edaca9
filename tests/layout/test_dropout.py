"""ConditionDropout: what is left out is left out whole, at the share asked for, and repeats."""

import numpy as np
import pytest
from hypothesis import given, settings

from tests.layout.cases import TEMPLATES, layout_of, random_row, same_parts, seeds, vocabulary
from vqtok.errors import ConfigError
from vqtok.layout import ConditionDropout, SequenceLayout

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
