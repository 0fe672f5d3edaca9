"""VocabLayout: every id has one meaning, every meaning one id."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.layout.cases import AUDIO_FP, IMAGE_FP, codes, text_of, vocabulary
from vqtok.errors import CodeRangeError, ConfigError, FingerprintError, FormatError, ShapeError
from vqtok.layout import Layout, SequenceLayout, Stream, TextVocabulary, VocabLayout


def text_tokenizer(words=("a", "b", "c"), added=("<s>",)):
    vocabulary = {word: index for index, word in enumerate(("<unk>", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    return tokenizer


@st.composite
def vocabularies(draw):
    """Streams with and without tables, with and without text."""
    text = draw(st.none() | st.integers(1, 50).map(text_of))
    free = draw(st.permutations(range(120)))
    streams, used = [], 0
    for index in range(draw(st.integers(0, 3))):
        sizes = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
        ids = None
        if draw(st.booleans()):
            cuts = np.cumsum([used, *sizes])
            ids = tuple(tuple(free[a:b]) for a, b in itertools.pairwise(cuts))
            used = int(cuts[-1])
        streams.append(Stream(f"s{index}", sizes, IMAGE_FP, ids=ids))
    labels = {"class": draw(st.integers(1, 9))} if draw(st.booleans()) else {}
    return VocabLayout.build(
        streams, text=text, labels=labels, sizes={"height": draw(st.integers(1, 9))}
    )


@settings(deadline=None)
@given(vocab=vocabularies())
def test_ids_and_meanings_are_one_to_one(vocab):
    meanings = {}
    for part in vocab.ranges:
        offsets = [i for i in range(part.size) if i not in part.without]
        values = np.array(offsets, np.int64) + part.first
        for value, token in zip(values.tolist(), part.encode(values).tolist(), strict=True):
            assert token not in meanings
            meanings[token] = (part.kind, part.name, part.level, value)

    assert max(meanings) + 1 == vocab.size
    for token in range(-2, vocab.size + 2):
        if token in meanings:
            found = vocab.meaning(token)
            assert (found.kind, found.name, found.level, found.value) == meanings[token]
        else:
            with pytest.raises(CodeRangeError, match="no meaning"):
                vocab.meaning(token)


@settings(deadline=None)
@given(vocab=vocabularies())
def test_a_vocabulary_comes_back_from_json(vocab):
    again = VocabLayout.from_json(json.loads(json.dumps(vocab.to_json())))

    assert again.ranges == vocab.ranges
    assert again.fingerprint == vocab.fingerprint
    assert again.streams.keys() == vocab.streams.keys()


def test_every_level_has_its_own_ids_and_decodes_back():
    vocab, rng = vocabulary(), np.random.default_rng(0)
    item = codes(rng, vocab.stream("audio"), (11,))

    ids = vocab.encode("audio", item)

    found = vocab.decode_codes("audio", ids)
    assert np.array_equal(found.codes.numpy(), item["codes"])
    assert found.fingerprint == AUDIO_FP
    assert [vocab.meaning(int(i)).level for i in ids[:, 0]] == [0, 1, 2]


def test_torch_codes_give_torch_ids():
    vocab = vocabulary()
    item = {"codes": torch.tensor([[[1, 6]], [[0, 4]]]), "fingerprint": IMAGE_FP}

    ids = vocab.encode("image", item)

    assert ids.dtype == torch.int64
    assert torch.equal(vocab.decode_codes("image", ids).codes, item["codes"])


def test_a_row_of_a_run_is_read_by_its_shape():
    vocab = vocabulary()
    row = {"codes": np.uint8([1, 6, 0, 4]), "shape": [2, 1, 2], "codes_fp": IMAGE_FP[:16]}

    ids = vocab.encode("image", row)

    assert ids.shape == (2, 1, 2)


def test_a_text_tokenizer_keeps_all_its_ids_with_added_tokens():
    tokenizer = text_tokenizer()

    vocab = VocabLayout.build([Stream("image", (7,), IMAGE_FP)], text=tokenizer)

    assert vocab.text.size == len(tokenizer) == 5  # vocab_size says 4
    assert vocab.encode_text(tokenizer("a <s> c")["input_ids"]).tolist() == [1, 4, 3]
    assert min(vocab.special(name) for name in vocab.specials) == 5
    assert vocab.config() == {
        "vocab_size": 15,
        "bos_token_id": 5,
        "eos_token_id": 6,
        "pad_token_id": 7,
    }


def test_specials_and_codes_may_lie_inside_the_text_vocabulary():
    tokenizer = text_tokenizer(words=["a", "IMGIMGB", "IMGIMGA"])
    image = Stream("image", (2,), IMAGE_FP, ids=((3, 2),))

    vocab = VocabLayout.build(
        [image], text=tokenizer, specials={"bos": tokenizer.vocab["<s>"], "eos": None, "pad": None}
    )

    assert vocab.special("bos") == 4
    assert vocab.special("eos") == 5
    item = {"codes": np.array([[0, 1]]), "fingerprint": IMAGE_FP}
    assert vocab.encode("image", item).tolist() == [[3, 2]]
    assert vocab.meaning(1).kind == "text"
    with pytest.raises(CodeRangeError, match="was given to"):
        vocab.encode_text([1, 3])


def test_the_fingerprint_of_a_text_tokenizer_is_its_content():
    tokenizer = text_tokenizer()
    remembered = TextVocabulary.from_tokenizer(tokenizer)
    tokenizer.pad_token = "<unk>"
    tokenizer(["a", "a b"], padding=True)  # leaves a trace in the backend

    remembered.check(tokenizer)
    with pytest.raises(FingerprintError, match="another layout"):
        remembered.check(text_tokenizer(words=["a", "c", "b"]))


def test_codes_of_another_tokenizer_are_refused():
    vocab = vocabulary()
    item = codes(np.random.default_rng(0), vocab.stream("image"), (2, 2))

    with pytest.raises(FingerprintError, match="were made by ffff"):
        vocab.encode("image", item | {"fingerprint": "f" * 64})
    with pytest.raises(FingerprintError, match=r"made by 1a1a1a1a\. Build"):
        vocab.encode("image", item | {"fingerprint": IMAGE_FP[:8]})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"codes": np.zeros((1, 2, 2), int)}, ShapeError, r"\[2, \*grid\]"),
        ({"codes": np.full((2, 2, 2), 5)}, CodeRangeError, "level 1 .* 0 to 4"),
        ({"codes": np.full((2, 2, 2), -1)}, CodeRangeError, "level 0"),
        ({"codes": np.zeros((2, 2, 2))}, ShapeError, "integer"),
        ({"codes": np.zeros((2, 0, 2), int)}, ShapeError, "at least one"),
        ({"codes": np.zeros(8, int), "shape": [2, 3, 2]}, ShapeError, "8 codes came"),
    ],
)
def test_wrong_codes_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        vocabulary().encode("image", {"fingerprint": IMAGE_FP} | change)


def test_ids_of_another_level_are_refused_by_name():
    vocab = vocabulary()
    ids = vocab.encode("image", codes(np.random.default_rng(0), vocab.stream("image"), (1, 1)))

    with pytest.raises(
        CodeRangeError, match="no code of stream 'image' level 0: codes 'image' level 1"
    ):
        vocab.decode_codes("image", ids[::-1].copy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"specials": ["bos", "bos"]}, "twice"),
        ({"specials": {"bos": 3, "eos": 3}}, "belongs both"),
        ({"specials": {"bos": -1}}, "start at 0"),
        ({"streams": [Stream("a", (2,), IMAGE_FP), Stream("a", (3,), IMAGE_FP)]}, "same kind"),
        ({"pad_to": 0}, "pad_to"),
        ({"streams": [Stream("text", (2,), IMAGE_FP)]}, "tell .'text'. apart"),
        ({"streams": [Stream("a", (2,), IMAGE_FP)], "labels": {"a": 2}}, "tell .'a'. apart"),
        ({"specials": []}, "at least one"),
        ({"labels": {"class": 0}}, "size of at least 1"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        VocabLayout.build(**arguments)


def test_a_stream_without_fingerprint_or_with_a_short_table_is_refused():
    with pytest.raises(ConfigError, match="decode fingerprint"):
        Stream("image", (7,), "")
    with pytest.raises(ConfigError, match=r"holds \[2\] ids"):
        Stream("image", (7,), IMAGE_FP, ids=((1, 2),))


@pytest.mark.parametrize(
    ("size", "dtype"), [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_the_dtype_is_the_smallest_that_holds_every_id(size, dtype):
    vocab = VocabLayout.build([Stream("a", (size - 3,), IMAGE_FP)])

    assert vocab.size == size
    assert vocab.dtype == dtype


def test_a_layout_lies_beside_the_config_and_notices_changes(tmp_path):
    vocab = vocabulary(pad_to=64)
    layout = Layout(vocab, {"image": SequenceLayout(vocab, "<bos><boi>{image}<eoi><eos>")})
    path = layout.save(tmp_path)

    again = Layout.load(tmp_path)

    assert path.name == "vqtok_layout.json"
    assert again.to_json() == layout.to_json()
    assert again.vocab.padded_size == 64
    changed = json.loads(path.read_text())
    changed["vocabulary"]["ranges"][1]["start"] += 1_000
    path.write_text(json.dumps(changed))
    with pytest.raises(FormatError, match="changed after"):
        Layout.load(tmp_path)
    path.write_text("{}")
    with pytest.raises(FormatError, match="version None"):
        Layout.load(path)
    with pytest.raises(FormatError, match="vqtok layout"):
        Layout.load(tmp_path / "nowhere")
    changed["vqtok_layout"], changed["sequences"] = 1, []
    for content in (b"[]", b"7", b"\xff\xfe", b"{", json.dumps(changed).encode()):
        path.write_bytes(content)
        with pytest.raises(FormatError):
            Layout.load(tmp_path)


def test_the_index_does_not_grow_with_the_codebook():
    vocab = VocabLayout.build([Stream("a", (2**31 - 4,), IMAGE_FP)])

    item = {"codes": np.array([[2**31 - 5]]), "fingerprint": IMAGE_FP}
    assert vocab.encode("a", item).item() == 2**31 - 2
