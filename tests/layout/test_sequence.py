"""SequenceLayout: what is encoded comes back, and what is no sequence is refused with a place."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layout.cases import (
    IMAGE_FP,
    TEMPLATES,
    codes,
    layout_of,
    random_row,
    same_parts,
    seeds,
    template_names,
    vocabulary,
)
from tests.layout.test_vocabulary import text_tokenizer
from vqtok.errors import ConfigError, FingerprintError, FormatError, InputError
from vqtok.layout import Layout, SequenceLayout, Stream, VocabLayout
from vqtok.layout.walker import Walker

VOCAB = vocabulary()
LAYOUTS = {name: layout_of(name, VOCAB) for name in TEMPLATES}


@settings(deadline=None)
@given(name=template_names, seed=seeds)
def test_decoding_gives_what_was_encoded(name, seed):
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    row = random_row(rng, layout)

    ids = layout.encode(row).ids

    assert same_parts(row, layout.decode(ids))
    assert ids.dtype == VOCAB.dtype


@settings(deadline=None)
@given(name=template_names, seed=seeds)
def test_padding_before_and_after_is_skipped(name, seed):
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    row = random_row(rng, layout)
    ids = layout.encode(row).ids.astype(np.int64)
    pad = np.full(3, VOCAB.special("pad"))

    parts = layout.decode(torch.from_numpy(np.concatenate([pad, ids, pad])))

    assert same_parts(row, parts)


def walks(layout, ids):
    """Whether an id-by-id walk reaches the end."""
    walker = Walker(layout)
    try:
        for token in ids:
            walker.push(int(token))
    except FormatError:
        return False
    return walker.done


@settings(deadline=None)
@given(name=template_names, seed=seeds, data=st.data())
def test_the_reader_and_the_walker_accept_the_same_sequences(name, seed, data):
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    ids = layout.encode(random_row(rng, layout)).ids.astype(np.int64)
    at = data.draw(st.integers(0, ids.size - 1))
    change = data.draw(st.sampled_from(["none", "replace", "remove", "insert", "swap"]))
    token = data.draw(st.integers(0, VOCAB.size))
    if change == "replace":
        ids[at] = token
    elif change == "remove":
        ids = np.delete(ids, at)
    elif change == "insert":
        ids = np.insert(ids, at, token)
    elif change == "swap":
        ids[[at, at - 1]] = ids[[at - 1, at]]

    try:
        parts = layout.decode(ids)
    except FormatError:
        parts = None

    assert walks(layout, ids) == (parts is not None)
    if change == "none":
        assert parts is not None
    if parts is not None:
        row = {key: parts[key] for key in layout.inputs}
        kept = ids[ids != VOCAB.special("pad")]
        assert np.array_equal(layout.encode(row).ids, kept)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("class_image", {0: "eos"}, "position 0 of 19 should hold <bos>"),
        ("class_image", {1: "bos"}, "position 1 .*{class}"),
        ("class_image", {6: "eos"}, "position 6 .*level 1.*step 1 of {image}"),
        ("class_image", {-1: None}, "position 18 .*<eos>.*ends"),
        ("rows", {2: "eol"}, "position 2 .*next step"),
    ],
)
def test_a_malformed_sequence_is_refused_with_its_position(name, changed, message):
    layout, rng = LAYOUTS[name], np.random.default_rng(0)
    row = random_row(rng, layout, grids={"image": (3, 2)})
    row |= {"class": 1} if "class" in row else {}
    ids = layout.encode(row).ids.astype(np.int64)
    for place, word in changed.items():
        ids = np.delete(ids, place) if word is None else ids
        if word is not None:
            ids[place] = VOCAB.special(word)

    with pytest.raises(FormatError, match=message):
        layout.decode(ids)


def test_an_id_outside_the_vocabulary_is_refused():
    with pytest.raises(FormatError, match=r"position 0 .* without meaning"):
        LAYOUTS["rows"].decode([10_000, 1, 2])


def test_loss_falls_only_on_the_parts_that_are_named():
    template, _, _ = TEMPLATES["class_image"]
    layout = SequenceLayout(VOCAB, template, loss_on=["image", "eos"])
    item = codes(np.random.default_rng(0), VOCAB.stream("image"), (2, 1))

    encoded = layout.encode({"class": 1, "image": item})

    assert encoded.loss_mask.tolist() == [False] * 5 + [True] * 4 + [False, True]
    assert (encoded.labels[~encoded.loss_mask] == -100).all()
    assert np.array_equal(encoded.labels[encoded.loss_mask], encoded.ids[encoded.loss_mask])


def test_text_may_come_as_a_string_of_the_right_tokenizer():
    tokenizer = text_tokenizer()
    vocab = VocabLayout.build([Stream("image", (7,), IMAGE_FP)], text=tokenizer)
    layout = SequenceLayout(
        vocab, "<bos>{text}<eos>{image}", grids={"image": (1, 2)}, text_tokenizer=tokenizer
    )
    item = {"codes": np.array([[[3, 4]]]), "fingerprint": IMAGE_FP}

    parts = layout.decode(layout.encode({"text": "c a", "image": item}).ids)

    assert tokenizer.decode(parts["text"]) == "c a"
    with pytest.raises(FingerprintError, match="text tokenizer"):
        SequenceLayout(vocab, "<bos>{text}<eos>", text_tokenizer=text_tokenizer(words=["z"]))


def test_a_label_that_is_left_out_becomes_null():
    layout = LAYOUTS["coarse"]
    item = codes(np.random.default_rng(0), VOCAB.stream("audio"), (2,))

    ids = layout.encode({"class": None, "audio": item}).ids

    assert ids[0] == VOCAB.special("null")
    assert layout.decode(ids)["class"] is None


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        ("<bos>{image}<eos> hello", {}, "'hello' is neither"),
        ("<sos>{image}<eos>", {}, "no special 'sos'"),
        ("<bos>{video}<eos>", {}, "no label 'video'"),
        ("<bos>{image}<eos>", {"patterns": {"image": "raster"}}, "without knowing the grid"),
        ("<bos>{height}{image}<eos>", {}, "height and width together"),
        ("<bos>{height}{width}<eos>", {}, "measure no stream"),
        ("<bos>{height}{width}{image}", {"grids": {"image": (2, 2)}}, "tell it again"),
        ("<bos>{audio}", {}, "special must follow"),
        ("<bos>{text}{audio}<eos>", {}, "special must follow"),
        ("<bos>{class}{class}<eos>", {}, "each part once"),
        ("<bos>{audio}<eos>", {"patterns": {"audio": "delay"}}, "as many heads"),
        ("<bos>{audio}<eos>", {"patterns": {"image": "frame"}}, "which the template has not"),
        ("<bos>{audio}<eos>", {"loss_on": ["image"]}, "which '<bos>{audio}<eos>' has not"),
        ("<pad>{audio}<eos>", {}, "around sequences"),
        ("<bos>{length}{audio}", {"patterns": {"audio": "raster"}}, "cannot arrange"),
        ("", {}, "at least one"),
        ("<bos>{image}<eol>", {}, "special must follow"),
        (
            "<bos>{audio}<eos>",
            {"patterns": {"audio": {"name": "delay_flat", "delays": [0, 1]}}},
            "2 delays came for 3 levels",
        ),
    ],
)
def test_a_template_that_could_not_be_read_back_is_refused(template, options, message):
    with pytest.raises(ConfigError, match=message):
        SequenceLayout(VOCAB, template, **options)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("class_image", {"class": 1}, "takes exactly"),
        ("fixed", {"image": (3, 3)}, "fixes {image}"),
        ("text_to_audio", {"audio": (2, 2), "text": []}, "read back as one axis"),
        ("length", {"audio": (2, 2)}, "grid of 1 axes"),
        ("coarse", {"audio": (2,), "class": 1.5}, "whole number; got 1.5"),
    ],
)
def test_a_row_that_does_not_fill_the_template_is_refused(name, row, message):
    rng = np.random.default_rng(0)
    row = {
        key: codes(rng, VOCAB.stream(key), value) if isinstance(value, tuple) else value
        for key, value in row.items()
    }

    with pytest.raises(InputError, match=message):
        LAYOUTS[name].encode(row)


@settings(deadline=None)
@given(name=template_names, seed=seeds)
def test_a_template_comes_back_from_json(name, seed):
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    row = random_row(rng, layout)

    saved = json.loads(json.dumps(Layout(VOCAB, {name: layout}).to_json()))
    again = Layout.from_json(saved).sequence()

    assert again.to_json() == layout.to_json()
    assert same_parts(row, again.decode(layout.encode(row).ids))


def test_a_layout_of_several_templates_finds_the_right_one():
    layout = Layout(VOCAB, {name: LAYOUTS[name] for name in ("rows", "coarse", "text_to_image")})
    row = random_row(np.random.default_rng(0), LAYOUTS["coarse"])

    name, parts = layout.decode(LAYOUTS["coarse"].encode(row).ids)

    assert name == "coarse"
    assert same_parts(row, parts)
    with pytest.raises(FormatError, match="no template"):
        layout.decode([VOCAB.special("eos")])
