"""What a random prior generates under the processor always decodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.layout.cases import (
    IMAGE_FP,
    TEMPLATES,
    layout_of,
    random_row,
    seeds,
    template_names,
    vocabulary,
)
from tests.layout.priors import tiny_llama
from vqtok.errors import ConfigError, FormatError
from vqtok.layout import SequenceLayout, Stream, VocabLayout
from vqtok.layout.walker import Walker

VOCAB = vocabulary(pad_to=16)
LAYOUTS = {name: layout_of(name, VOCAB) for name in TEMPLATES}
MAX_LENGTH = 40


def generate(model, layout, prompt, max_length=MAX_LENGTH, **options):
    processor = layout.logits_processor(max_length)
    return model.generate(
        prompt,
        attention_mask=(prompt != VOCAB.special("pad")).long(),
        do_sample=True,
        max_length=max_length,
        logits_processor=[processor],
        pad_token_id=VOCAB.special("pad"),
        **options,
    )


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_whatever_a_random_llama_samples_decodes(name):
    layout = LAYOUTS[name]
    first = Walker(layout).choices()[0]
    start = int(VOCAB.ranges[first.number].table()[0])
    prompt = torch.full((6, 1), start)

    for spread in (0.02, 1.0):
        out = generate(tiny_llama(VOCAB, spread=spread), layout, prompt)
        for row in out:
            parts = layout.decode(row)
            kept = row[row != VOCAB.special("pad")].numpy()
            again = layout.encode({key: parts[key] for key in layout.inputs})
            assert np.array_equal(again.ids, kept)


def test_rows_in_different_states_with_left_padding_each_go_on_from_their_own():
    layout, rng = LAYOUTS["class_image"], np.random.default_rng(0)
    whole = [layout.encode(random_row(rng, layout)).ids.astype(np.int64) for _ in range(5)]
    prompts = [ids[: 1 + 3 * index] for index, ids in enumerate(whole)]
    width = max(map(len, prompts))
    pad = VOCAB.special("pad")
    prompt = torch.stack(
        [torch.from_numpy(np.pad(p, (width - len(p), 0), constant_values=pad)) for p in prompts]
    )

    out = generate(tiny_llama(VOCAB), layout, prompt, max_length=60)

    for row, start in zip(out, prompts, strict=True):
        kept = row[row != pad].numpy()
        assert np.array_equal(kept[: start.size], start)
        layout.decode(row)


def test_beam_search_which_reorders_rows_decodes_too():
    layout = LAYOUTS["delay_flat"]
    prompt = torch.full((2, 1), VOCAB.special("bos"))

    out = generate(tiny_llama(VOCAB), layout, prompt, num_beams=3, num_return_sequences=3)

    assert len(out) == 6
    for row in out:
        layout.decode(row)


@settings(deadline=None)
@given(name=template_names, seed=seeds)
def test_any_sequence_of_the_template_stays_possible(name, seed):
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    ids = torch.from_numpy(layout.encode(random_row(rng, layout)).ids.astype(np.int64))
    processor = layout.logits_processor(max_length=len(ids))

    for end in range(len(ids)):
        scores = processor(ids[None, :end], torch.zeros(1, VOCAB.padded_size))
        assert scores[0, ids[end]] == 0


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_id_that_is_let_through_is_one_that_the_walk_takes(name):
    layout = LAYOUTS[name]
    row = random_row(np.random.default_rng(1), layout)
    ids = torch.from_numpy(layout.encode(row).ids.astype(np.int64))
    processor = layout.logits_processor()

    for end in range(len(ids)):
        legal = processor(ids[None, :end], torch.zeros(1, VOCAB.padded_size))[0] == 0
        for token in range(VOCAB.size):
            assert legal[token] == walks_on(layout, [*ids[:end].tolist(), token], end)
        assert not legal[VOCAB.size :].any()


def walks_on(layout, tokens, end):
    walker = Walker(layout)
    try:
        for token in tokens:
            walker.push(token)
    except FormatError:
        return False
    return walker.taken == end + 1  # a pad in front of a sequence is skipped, not taken


def test_sizes_are_chosen_so_that_the_picture_fits():
    layout = LAYOUTS["class_image"]
    model = tiny_llama(VOCAB, spread=0.02)
    prompt = torch.full((32, 1), VOCAB.special("bos"))

    out = generate(model, layout, prompt, max_length=19)  # 7 beside the codes, 2 levels: 6 places

    areas = [layout.decode(row) for row in out]
    areas = [parts["height"] * parts["width"] for parts in areas]
    assert max(areas) == 6
    assert len(set(areas)) > 2


def test_too_little_room_is_refused():
    layout = LAYOUTS["class_image"]

    with pytest.raises(ConfigError, match="needs at least 8 more ids"):
        generate(tiny_llama(VOCAB), layout, torch.full((1, 1), VOCAB.special("bos")), max_length=8)


def test_a_prompt_that_begins_no_sequence_is_refused_with_its_place():
    layout = LAYOUTS["rows"]
    good, bad = VOCAB.special("bos"), VOCAB.special("eoi")
    prompt = torch.tensor([[good], [bad]])

    with pytest.raises(FormatError, match="row 1, column 0"):
        layout.logits_processor()(prompt, torch.zeros(2, VOCAB.size))


def test_scores_of_a_smaller_vocabulary_and_a_vocabulary_without_pad_are_refused():
    with pytest.raises(ConfigError, match="scores of 5 ids"):
        LAYOUTS["rows"].logits_processor()(torch.zeros(1, 0).long(), torch.zeros(1, 5))
    vocab = VocabLayout.build([Stream("a", (3,), IMAGE_FP)], specials=["bos", "eos"])
    with pytest.raises(ConfigError, match="<pad>"):
        SequenceLayout(vocab, "<bos>{a}<eos>").logits_processor()


def test_where_another_processor_left_nothing_all_that_is_legal_is_as_good():
    layout = LAYOUTS["rows"]
    scores = torch.full((1, VOCAB.size), -torch.inf)

    out = layout.logits_processor()(torch.zeros(1, 0).long(), scores)

    assert out[0].argmax() == VOCAB.special("bos")
    assert torch.isfinite(out).sum() == 1
