"""The tokenizer that ships: what it promises on texts that it has not seen."""

import numpy as np
import pytest
import torch

from vqtok import AutoVQTokenizer
from vqtok.metrics.text import byte_accuracy
from vqtok.models.base import Rate

# written for this test, so in no training set
PROSE = """The lighthouse keeper had three rules, and he broke the first of them on a Tuesday.
Nobody was to climb the stairs after dark; nobody was to touch the lamp; and nobody,
under any circumstances whatever, was to ask him about the boat. "You will catch your
death up there," his sister said, when she came with bread and a letter from the harbour
office. He laughed at that. What else was there to catch, so far from the road? Fish,
perhaps, or a glimpse of the ferry turning home at half past six. She put the kettle on,
and they sat for a while without a word. Outside the wind went round to the west, as it
always did in March, and the gulls gave up their quarrel with the chimney. By nine
o'clock the fog had swallowed the pier, the church and most of the hill behind it. That
was when they heard the bell. It rang twice, and then, after a pause that seemed far too
long, once more.
"""
PRINTED = "“Don\u2019t,” she said — quietly, as one speaks to a horse — and the door closed…\n"
CODE = """def mean_of(values, default=None):
    \"\"\"The mean of some numbers, or `default` where there are none.\"\"\"
    total, count = 0.0, 0
    for value in values:
        if value is None or value != value:
            continue
        total, count = total + value, count + 1
    return total / count if count else default
"""
OTHERS = [
    "Grüße aus Köln!",
    "Привет, мир",
    "日本語のテキスト",
    "😀👩‍👩‍👧",
    "\ud800",
    "\0\x1b\x7f",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoVQTokenizer.from_pretrained("vqtok/text-vq-tiny", device="cpu", verify=True)


def test_it_is_what_its_card_says(tokenizer):
    assert tokenizer.rate == Rate(bits=6.0, per="byte")
    assert tokenizer.codebook_sizes == (4096, 4096)
    assert tokenizer.hop == 4


@pytest.mark.parametrize(("text", "least"), [(PROSE, 0.995), (PRINTED, 0.95), (CODE, 0.995)])
def test_unseen_english_is_right_before_escapes(tokenizer, text, least):
    values = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).astype(np.int64))[None]

    decoded = tokenizer.decode(tokenizer.encode(values))[:, : values.shape[1]]

    assert byte_accuracy(decoded, values).item() >= least


def test_escapes_of_english_cost_next_to_nothing(tokenizer):
    (tokens,) = tokenizer.tokenize([PROSE * 10])

    assert tokenizer.bits_of(tokens) / len(PROSE * 10) < 6.1


def test_texts_of_any_kind_come_back_together(tokenizer):
    texts = [PROSE, PRINTED, CODE, *OTHERS]

    assert tokenizer.detokenize(tokenizer.tokenize(texts, batch_size=4)) == texts
