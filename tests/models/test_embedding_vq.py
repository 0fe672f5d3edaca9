"""Vectors to codes and back, semantic IDs that never collide, and what is refused."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vqtok import AutoVQTokenizer, EmbeddingVQConfig, EmbeddingVQModel
from vqtok.errors import CodeRangeError, ConfigError, FingerprintError, InputError, ShapeError
from vqtok.models.embedding_vq.semantic_ids import with_digits
from vqtok.models.outputs import VQTokens

DIM = 12
KINDS = {
    "residual": {"kind": "residual", "codebook_size": 16, "num_codebooks": 3},
    "product": {"kind": "product", "codebook_size": 16, "num_codebooks": 3},
    "vq": {"kind": "vq", "codebook_size": 64},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def fresh(kind="residual", **fields) -> EmbeddingVQModel:
    config = EmbeddingVQConfig(embedding_dim=DIM, quantizer_config=KINDS[kind], **fields)
    return EmbeddingVQModel(config).eval()


def with_networks(kind="residual") -> EmbeddingVQModel:
    return fresh(kind, latent_dim=6, encoder_widths=[10, 8], decoder_widths=[8, 10])


def clustered(rows: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(20, DIM, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(rows, DIM, generator=generator)
    return centers[torch.randint(20, (rows,), generator=generator)] + 0.3 * noise


@every_kind
@pytest.mark.parametrize("places", [(), (5,), (2, 3)])
@pytest.mark.parametrize("build", [fresh, with_networks])
def test_vectors_of_any_leading_axes_get_codes_with_the_codebooks_second(kind, places, build):
    model = build(kind)
    vectors = torch.randn(4, *places, DIM)

    with torch.no_grad():
        codes = model.encode(vectors)
        out = model(vectors)

    assert codes.shape == (4, model.num_codebooks, *places)
    assert torch.equal(out.codes, codes)
    assert out.reconstruction.shape == model.decode(codes).shape == vectors.shape
    torch.testing.assert_close(out.reconstruction, model.decode(codes))
    assert out.latents.shape[:-1] == vectors.shape[:-1]


@every_kind
def test_fitting_beats_random_codes(kind):
    vectors, unseen = clustered(2000), clustered(500, seed=2)
    random, fitted = fresh(kind).report(unseen), fresh(kind).fit(vectors).report(unseen)

    assert fitted.relative_error < 0.4 * random.relative_error
    assert fitted.relative_error < 0.5
    assert all(book.usage > 0.9 for book in fitted.codebooks)


@pytest.mark.parametrize("kind", ["residual", "product"])
def test_more_codebooks_lower_the_error_and_keep_more_neighbours(kind):
    reports = []
    for number in (1, 3, 6):
        quantizer = KINDS[kind] | {"num_codebooks": number}
        config = EmbeddingVQConfig(embedding_dim=DIM, quantizer_config=quantizer)
        reports.append(EmbeddingVQModel(config).fit(clustered(1000)).report(clustered(1000)))

    assert all(b.relative_error < 0.8 * a.relative_error for a, b in pairwise(reports))
    assert all(b.recall > a.recall + 0.05 for a, b in pairwise(reports))


def test_fitting_repeats_and_leaves_the_random_state_alone():
    vectors = clustered(500)
    before = torch.get_rng_state()

    first, second, other = (fresh().fit(vectors, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert not first.training


def test_a_beam_lowers_the_error_and_changes_encode_but_not_decode():
    model = fresh(encoder_beam_size=1).fit(clustered(2000))
    wide = fresh()
    wide.load_state_dict(model.state_dict())

    assert wide.report(clustered(500)).relative_error < model.report(clustered(500)).relative_error
    assert wide.fingerprint.decode == model.fingerprint.decode
    assert wide.fingerprint.encode != model.fingerprint.encode


@every_kind
def test_a_list_of_vectors_becomes_tokens_and_vectors_again(kind):
    model = fresh(kind).fit(clustered(1000))
    vectors = clustered(3, seed=3)
    items = [vectors[0], vectors[1].double().numpy(), vectors[2].tolist(), [1] * DIM]

    tokens = model.tokenize(items)
    back = model.detokenize(tokens)

    assert all(token.codes.shape == (model.num_codebooks, 1) for token in tokens)
    assert torch.equal(tokens[0].codes[:, 0], model.encode(vectors[:1])[0])
    assert torch.equal(tokens[1].codes[:, 0], model.encode(vectors[1:2])[0])
    for vector, token in zip(back, tokens, strict=True):
        assert vector.dtype == np.float32
        assert vector.shape == (DIM,)
        assert np.array_equal(vector, model.decode(token.codes[None])[0, 0].numpy())
    assert model.rate.per == "vector"
    assert model.rate.bits == pytest.approx(sum(math.log2(k) for k in model.codebook_sizes))


def test_codes_of_several_vectors_are_not_one_item():
    """A vector more that a prior made would be lost in silence."""
    model = fresh()
    decode = model.fingerprint.decode

    for places in ((2,), (0,), (1, 1)):
        codes = torch.zeros(model.num_codebooks, *places, dtype=torch.int64)
        with pytest.raises(ShapeError, match=r"one vector are \[Q, 1\]"):
            model.detokenize([VQTokens(codes, {}, decode)])
    codes = torch.zeros(model.num_codebooks, 1, dtype=torch.int64)
    assert model.detokenize([VQTokens(codes, {}, decode)])[0].shape == (DIM,)


def test_fewer_codebooks_are_the_first_ones():
    model, vectors = fresh().fit(clustered(1000)), clustered(50)

    assert torch.equal(model.encode(vectors, num_codebooks=2), model.encode(vectors)[:, :2])
    assert model.decode(model.encode(vectors, num_codebooks=2)).shape == vectors.shape


@torch.no_grad()
@every_kind
@pytest.mark.parametrize("build", [fresh, with_networks])
def test_codes_survive_saving_and_loading(kind, build, tmp_path):
    model, vectors = build(kind).fit(clustered(500)), clustered(50)

    model.save_pretrained(tmp_path)
    loaded = AutoVQTokenizer.from_pretrained(tmp_path, device="cpu", verify=True)

    assert isinstance(loaded, EmbeddingVQModel)
    assert torch.equal(loaded.encode(vectors), model.encode(vectors))
    assert torch.equal(loaded.decode(model.encode(vectors)), model.decode(model.encode(vectors)))
    assert loaded.fingerprint == model.fingerprint


def test_networks_and_codebooks_learn_by_gradient():
    model, vectors = with_networks().train(), F.normalize(clustered(512), dim=-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []

    for _ in range(100):
        optimizer.zero_grad()
        out = model(vectors)
        out.loss.backward()
        optimizer.step()
        losses.append(out.losses["mse"].item())

    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert losses[-1] < 0.55 * losses[0]


@pytest.mark.parametrize("places", [(), (5,), (2, 3)])
def test_masked_vectors_count_neither_in_losses_nor_in_statistics(places):
    model = with_networks()
    vectors = torch.randn(4, *places, DIM)
    mask = torch.rand(4, *places) > 0.4
    garbage = torch.where(mask[..., None], vectors, 100.0)

    kept, other, alone = model(vectors, mask), model(garbage, mask), model(vectors[mask])

    assert kept.loss.item() == pytest.approx(other.loss.item(), rel=1e-5)
    assert kept.loss.item() == pytest.approx(alone.loss.item(), rel=1e-5)


def test_hidden_states_are_those_of_every_linear_map():
    out = with_networks()(torch.randn(2, 3, DIM), output_hidden_states=True)

    assert [h.shape for h in out.hidden_states] == [(2, 3, w) for w in (10, 8, 6, 8, 10, DIM)]


CODES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=40)


def as_codes(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64).view(-1, 2)


@settings(deadline=None)
@given(batches=st.lists(CODES, min_size=1, max_size=5))
def test_no_two_ids_are_alike_and_given_ones_never_change(batches):
    taken = None
    for batch in batches:
        ids = with_digits(as_codes(batch), taken)
        taken = ids if taken is None else torch.cat([taken, ids])

    together = as_codes([row for batch in batches for row in batch])
    assert torch.equal(taken[:, :-1], together)
    assert len(set(map(tuple, taken.tolist()))) == len(taken)
    # all at once, in the same order, gives the same: adding items changes no earlier ID
    assert torch.equal(with_digits(together), taken)
    for code in set(map(tuple, together.tolist())):
        digits = taken[(together == torch.tensor(code)).all(1), -1]
        assert digits.tolist() == list(range(len(digits)))


@settings(deadline=None)
@given(batch=CODES, removed=st.integers(0, 39), more=CODES)
def test_ids_of_removed_items_are_given_again_only_at_the_end_of_their_group(batch, removed, more):
    ids = with_digits(as_codes(batch))
    kept = torch.cat([ids[:removed], ids[removed + 1 :]])

    new = with_digits(as_codes(more), kept)

    assert len({*map(tuple, kept.tolist()), *map(tuple, new.tolist())}) == len(kept) + len(new)


def test_items_with_the_same_vector_get_different_ids():
    model = fresh().fit(clustered(500))
    vectors = clustered(30).repeat(3, 1)

    ids = model.unique_ids(vectors)
    more = model.unique_ids([vectors[0].numpy(), vectors[1].tolist()], taken=ids)

    assert ids.shape == (90, 4)
    assert torch.equal(ids[:, :-1], model.encode(vectors))
    assert len(set(map(tuple, torch.cat([ids, more]).tolist()))) == 92
    assert torch.equal(more[:, :-1], model.encode(vectors[:2]))


def test_the_report_counts_collisions_and_perfect_codes_keep_all_neighbours():
    vectors = clustered(16)  # as many as there are codes
    model = fresh("product").fit(vectors)

    perfect = model.report(vectors, k=3)
    doubled = model.report(torch.cat([vectors, vectors[:4]]), k=1)

    assert perfect.relative_error < 1e-3
    assert perfect.recall == pytest.approx(1, abs=0.05)
    assert (perfect.collisions, perfect.largest_group) == (0, 1)
    assert doubled.collisions == 8 / 20
    assert doubled.largest_group == 2
    assert perfect.bits == 12


@pytest.mark.parametrize(
    ("item", "status"),
    [
        ([float("nan")] * DIM, "nonfinite"),
        (np.full(DIM, np.inf), "nonfinite"),
        (torch.full((DIM,), 1e300, dtype=torch.float64), "nonfinite"),
        ([], "empty"),
        ([0.0] * (DIM + 1), "decode_error"),
        (torch.zeros(1, DIM), "decode_error"),
        (torch.zeros(()), "decode_error"),
        ("0.1 0.2", "decode_error"),
        (["a"] * DIM, "decode_error"),
        ([[1.0], [1.0, 2.0]], "decode_error"),
        (torch.zeros(DIM, dtype=torch.complex64), "decode_error"),
        ([True] * DIM, "decode_error"),
        (None, "decode_error"),
        ({"a": 1}, "decode_error"),
    ],
)
def test_what_is_no_vector_of_this_width_is_refused(item, status):
    for call in (fresh().tokenize, fresh().fit, fresh().unique_ids):
        with pytest.raises(InputError) as caught:
            call([item])
        assert caught.value.status == status


def test_matrices_that_do_not_fit_are_refused_and_bad_rows_are_named():
    vectors = torch.zeros(20, DIM)
    vectors[[3, 7], 2] = torch.nan

    with pytest.raises(InputError, match=r"\[3, 7\]"):
        fresh().fit(vectors)
    for wrong in (torch.zeros(20, DIM + 1), torch.zeros(2, 3, DIM), [], np.zeros((0, DIM))):
        with pytest.raises(InputError):
            fresh().fit(wrong)
    with pytest.raises(InputError, match="neighbours"):
        fresh().report(torch.zeros(10, DIM), k=10)


def test_wrong_tensors_and_ids_are_refused():
    model = fresh()
    ids = model.unique_ids(clustered(10))

    for wrong in (torch.zeros(DIM), torch.zeros(2, DIM - 1), torch.zeros(2, DIM).long()):
        with pytest.raises(ShapeError, match="vectors"):
            model.encode(wrong)
    with pytest.raises(ShapeError, match="mask"):
        model(torch.zeros(2, 3, DIM), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="decode wants"):
        model.decode(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ShapeError):
        model.unique_ids(clustered(3), taken=ids[:, :-1])
    with pytest.raises(ShapeError):
        model.unique_ids(clustered(3), taken=ids.tolist())
    with pytest.raises(CodeRangeError):
        model.unique_ids(clustered(3), taken=ids + 100)
    with pytest.raises(InputError, match="twice"):
        model.unique_ids(clustered(3), taken=torch.cat([ids, ids]))
    with pytest.raises(FingerprintError):
        fresh().fit(clustered(100)).detokenize(model.tokenize([[0.0] * DIM]))


@pytest.mark.parametrize(
    "fields",
    [
        {"embedding_dim": 0},
        {"encoder_widths": [0]},
        {"decoder_widths": [8] * 40},
        {"latent_dim": -1},
        {"encoder_beam_size": 0},
        {"encoder_beam_size": 4, "quantizer_config": KINDS["product"]},
        {"quantizer_config": {"kind": "spatial", "codebook_size": 64}},
        {"quantizer_config": {"codebook_size": 64}},
        {"quantizer_config": KINDS["vq"] | {"dim": 3}},
    ],
    ids=str,
)
def test_wrong_configurations_are_refused(fields):
    with pytest.raises(Exception, match=r"must be|wants|for kind"):
        EmbeddingVQConfig(**fields)
    with pytest.raises(ConfigError, match="multiple of num_codebooks"):
        fresh("product", latent_dim=7)
