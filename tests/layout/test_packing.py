"""Packing: nothing lost, nothing torn where it may not be, and documents that do not see others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layout.cases import layout_of, random_row, vocabulary
from tests.layout.priors import tiny_llama
from vqtok.errors import ConfigError, InputError
from vqtok.layout import PACKINGS, Encoded, attention_mask, pack
from vqtok.layout.packing import efficiency

PAD = 2


def sequences(lengths):
    """Sequences of given lengths whose ids say where they come from."""
    return [
        Encoded(np.arange(n, dtype=np.uint32) + 100 * index, np.ones(n, bool), f"k{index}")
        for index, n in enumerate(lengths)
    ]


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=30)


@settings(deadline=None)
@given(lengths=lengths, method=st.sampled_from(sorted(PACKINGS)))
def test_every_id_is_in_exactly_one_place(lengths, method):
    documents = sequences(lengths)

    rows = list(pack(documents, method, 12, PAD))

    found = {}
    for row in rows:
        assert row.ids.shape == row.document_ids.shape == row.position_ids.shape == (12,)
        assert (row.ids[row.document_ids < 0] == PAD).all()
        for document, ids in row.pieces():
            found.setdefault(document, []).append(ids)
    assert sorted(found) == list(range(len(documents)))
    for index, document in enumerate(documents):
        assert np.array_equal(np.concatenate(found[index]), document.ids)
        assert method == "concat" or len(found[index]) == 1


@settings(deadline=None)
@given(lengths=lengths, method=st.sampled_from(sorted(PACKINGS)))
def test_positions_start_anew_and_no_piece_learns_its_first_id(lengths, method):
    for row in pack(sequences(lengths), method, 12, PAD):
        starts = np.flatnonzero(np.diff(row.document_ids, prepend=-9))
        starts = starts[row.document_ids[starts] >= 0]
        assert (row.position_ids[starts] == 0).all()
        assert not row.loss_mask[starts].any()
        assert not row.loss_mask[row.document_ids < 0].any()
        inner = np.diff(row.position_ids)[np.diff(row.document_ids) == 0]
        assert np.isin(inner, [0, 1]).all()


@settings(deadline=None)
@given(lengths=lengths)
def test_concat_pads_only_the_last_row_and_best_fit_takes_few_rows(lengths):
    rows = {m: list(pack(sequences(lengths), m, 12, PAD)) for m in PACKINGS}

    total = sum(lengths)
    fewest = -(-total // 12)
    assert len(rows["concat"]) == fewest
    assert fewest <= len(rows["best_fit"]) <= 11 / 9 * fewest_bins(lengths, 12) + 4
    assert len(rows["none"]) == len(lengths)
    for packed in rows.values():
        assert efficiency(packed) == pytest.approx(total / (12 * len(packed)))


def fewest_bins(lengths, size):
    """A lower bound: two lengths above half a row never share one."""
    return max(-(-sum(lengths) // size), sum(2 * n > size for n in lengths))


def test_best_fit_fills_rows_of_real_lengths_nearly_whole():
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 400, 2_000).tolist()

    packed = efficiency(pack(sequences(lengths), "best_fit", 1_024, PAD))
    padded = efficiency(pack(sequences(lengths), "none", 1_024, PAD))

    assert packed > 0.99
    assert padded < 0.25


def test_the_logits_of_a_packed_document_are_those_of_it_alone():
    vocab = vocabulary()
    rng = np.random.default_rng(0)
    layouts = [layout_of(name, vocab) for name in ("class_image", "text_to_audio", "delay_flat")]
    documents = [layout.encode(random_row(rng, layout)) for layout in layouts for _ in range(3)]
    rows = list(pack(documents, "best_fit", 80, vocab.special("pad")))
    model = tiny_llama(vocab, spread=0.3).double()

    ids = torch.tensor(np.stack([row.ids for row in rows]).astype(np.int64))
    owners = torch.tensor(np.stack([row.document_ids for row in rows]))
    positions = torch.tensor(np.stack([row.position_ids for row in rows]).astype(np.int64))
    assert len(rows) < len(documents) / 2
    for mask in (attention_mask(owners), attention_mask(owners, torch.float64)):
        with torch.no_grad():
            packed = model(ids, attention_mask=mask, position_ids=positions).logits
        for index, document in enumerate(documents):
            alone = torch.tensor(document.ids.astype(np.int64))[None]
            with torch.no_grad():
                wanted = model(alone).logits[0]
            torch.testing.assert_close(packed[owners == index], wanted)


def test_without_the_mask_documents_leak():
    vocab = vocabulary()
    layout, rng = layout_of("delay_flat", vocab), np.random.default_rng(0)
    first, other, last = (layout.encode(random_row(rng, layout)) for _ in range(3))
    model = tiny_llama(vocab, spread=0.3)

    def logits(before, masked):
        (row,) = pack([before, last], "concat", 60, vocab.special("pad"))
        owners, ids = torch.tensor(row.document_ids), torch.tensor(row.ids.astype(np.int64))
        positions = torch.tensor(row.position_ids.astype(np.int64))[None]
        mask = attention_mask(owners) if masked else None
        with torch.no_grad():
            out = model(ids[None], attention_mask=mask, position_ids=positions).logits[0]
        return out[owners == 1]

    torch.testing.assert_close(logits(first, True), logits(other, True))
    assert (logits(first, False) - logits(other, False)).abs().max() > 1e-3


def test_a_sequence_that_does_not_fit_is_refused_unless_it_may_be_cut():
    documents = sequences([3, 9])

    for method in ("none", "best_fit"):
        with pytest.raises(InputError, match=r"sequence 1 .k1. has 9 ids"):
            list(pack(documents, method, 8, PAD))
    assert len(list(pack(documents, "concat", 8, PAD))) == 2


@pytest.mark.parametrize(
    ("method", "size", "message"), [("greedy", 8, "no packing"), ("none", 0, "block_size")]
)
def test_unknown_packings_are_refused(method, size, message):
    with pytest.raises(ConfigError, match=message):
        pack([], method, size, PAD)
