"""Patterns: exact inverses, the orders that the papers draw, and what a prefix allows."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqtok.errors import ConfigError, FormatError, ShapeError
from vqtok.layout.patterns import HOLE, PATTERNS, ROW_END, build_pattern

SIDE = st.integers(1, 7)


@st.composite
def cases(draw, free=False):
    """A pattern, Q and a grid that it arranges."""
    name = draw(st.sampled_from([n for n, p in PATTERNS.items() if p.free or not free]))
    levels = draw(st.integers(1, 5))
    spec = {"name": name}
    if name.startswith("delay"):
        delays = draw(st.none() | st.lists(st.integers(0, 9), min_size=levels, max_size=levels))
        spec |= {} if delays is None else {"delays": [0, *delays[1:]]}
    pattern = build_pattern(spec)
    axes = pattern.axes or (1 if free else draw(st.integers(1, 3)))
    return pattern, levels, tuple(draw(st.lists(SIDE, min_size=axes, max_size=axes)))


def arrange(pattern, codes):
    marks = {"row_end": 90_000} if pattern.uses_row_end else {}
    return pattern.apply(codes, **marks, hole=90_001)


@settings(deadline=None)
@given(case=cases(), seed=st.integers(0, 999))
def test_inverting_what_was_applied_gives_the_codes(case, seed):
    pattern, levels, grid = case
    codes = np.random.default_rng(seed).integers(0, 1000, (levels, *grid))

    arranged = arrange(pattern, codes)

    assert np.array_equal(pattern.invert(arranged.ids, levels, grid), codes)
    assert arranged.ids.shape[-1] == pattern.num_tokens(levels, grid)
    assert arranged.ids.ndim == (1 if pattern.flat else 2)
    assert int(arranged.mask.sum()) == codes.size
    assert sorted(arranged.ids[arranged.mask]) == sorted(codes.ravel())


@settings(deadline=None)
@given(case=cases())
def test_every_step_says_which_level_and_position_it_holds(case):
    pattern, levels, grid = case
    places = np.arange(levels * np.prod(grid)).reshape(levels, *grid)

    arranged = arrange(pattern, places)
    level, position = pattern.steps(levels, grid)

    held = arranged.mask
    assert np.array_equal(
        places.reshape(levels, -1)[level[held], position[held]], arranged.ids[held]
    )
    assert set(level[~held]) <= {ROW_END, HOLE}


@settings(deadline=None)
@given(case=cases(free=True))
def test_a_free_pattern_tells_its_grid_from_the_levels(case):
    pattern, levels, grid = case

    assert pattern.find_grid(levels, pattern.levels(levels, grid)) == grid
    cut = pattern.levels(levels, grid)[:-1]
    assert pattern.find_grid(levels, cut) != grid


@settings(deadline=None)
@given(case=cases(free=True), data=st.data())
def test_the_candidates_allow_exactly_the_next_steps_of_all_grids(case, data):
    pattern, levels, grid = case
    whole = pattern.levels(levels, grid)
    prefix = whole[: data.draw(st.integers(0, whole.size))]

    offered = {_next(pattern, levels, g, prefix) for g in pattern.matching(levels, prefix)}

    grids = itertools.product(range(1, 10), repeat=len(grid))
    fits = [g for g in grids if np.array_equal(pattern.levels(levels, g)[: prefix.size], prefix)]
    assert offered == {_next(pattern, levels, g, prefix) for g in fits}


def _next(pattern, levels, grid, prefix):
    steps = pattern.levels(levels, grid)
    return "end" if steps.size == prefix.size else int(steps[prefix.size])


@pytest.mark.parametrize(
    ("name", "codes", "arranged"),
    [
        ("raster", [[[0, 1], [2, 3]], [[4, 5], [6, 7]]], [0, 4, 1, 5, 2, 6, 3, 7]),
        ("raster_rows", [[[0, 1], [2, 3]]], [0, 1, 99, 2, 3, 99]),
        ("column", [[[0, 1], [2, 3]], [[4, 5], [6, 7]]], [0, 4, 2, 6, 1, 5, 3, 7]),
        ("frame", [[0, 1, 2], [3, 4, 5]], [0, 3, 1, 4, 2, 5]),
        ("coarse_first", [[0, 1, 2], [3, 4, 5]], [0, 1, 2, 3, 4, 5]),
        (
            "delay",
            [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
            [[0, 1, 2, 98, 98], [98, 3, 4, 5, 98], [98, 98, 6, 7, 8]],
        ),
        ("delay_flat", [[0, 1, 2], [3, 4, 5], [6, 7, 8]], [0, 1, 3, 2, 4, 6, 5, 7, 8]),
        ("parallel", [[0, 1, 2], [3, 4, 5]], [[0, 1, 2], [3, 4, 5]]),
    ],
)
def test_the_orders_are_those_of_the_papers(name, codes, arranged):
    pattern = build_pattern(name)

    found = pattern.apply(np.array(codes), row_end=99, hole=98).ids

    assert found.tolist() == arranged


def test_delay_equals_what_transformers_musicgen_builds():
    from transformers import MusicgenForCausalLM
    from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

    config = MusicgenDecoderConfig(
        vocab_size=50, num_codebooks=4, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=1, ffn_dim=8, audio_channels=1, pad_token_id=50, bos_token_id=50,
    )  # fmt: skip
    musicgen = MusicgenForCausalLM(config)
    codes = torch.randint(0, 50, (4, 9))

    # their first column is a start token, which ours leaves to the template
    started = torch.cat([torch.full((4, 1), 50), codes], 1)
    _, mask = musicgen.build_delay_pattern_mask(started, pad_token_id=50, max_length=13)
    ours = build_pattern("delay").apply(codes, hole=50)

    # it says 50 where a hole is forced
    assert torch.equal(mask[:, 1:] != 50, ours.mask)


@settings(deadline=None)
@given(case=cases())
def test_torch_and_numpy_arrange_alike(case):
    pattern, levels, grid = case
    codes = np.arange(levels * np.prod(grid)).reshape(levels, *grid)

    ours, theirs = arrange(pattern, codes), arrange(pattern, torch.from_numpy(codes))

    assert np.array_equal(ours.ids, theirs.ids.numpy())
    assert np.array_equal(ours.mask, theirs.mask.numpy())
    assert np.array_equal(pattern.invert(theirs.ids, levels, grid).numpy(), codes)


@settings(deadline=None)
@given(case=cases())
def test_a_pattern_comes_back_from_json(case):
    pattern, _, _ = case

    assert build_pattern(pattern.to_json()) == pattern


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: build_pattern("zigzag"), ConfigError, "no pattern 'zigzag'"),
        (lambda: build_pattern({"name": "frame", "delays": [0]}), ConfigError, "no arguments"),
        (lambda: build_pattern({"name": "delay", "delays": [1, 0]}), ConfigError, "0 for level 0"),
        (lambda: build_pattern("raster").order(2, (4,)), ShapeError, "2 axes"),
        (lambda: build_pattern("frame").order(2, (0,)), ShapeError, "empty axis"),
        (lambda: build_pattern("delay").apply(np.ones((2, 3), int)), ConfigError, "needs hole"),
        (lambda: build_pattern("raster").candidates(1, [0]), ConfigError, "without knowing"),
        (lambda: build_pattern("frame").invert(np.ones(5, int), 2, (3,)), FormatError, "6"),
        (
            lambda: build_pattern({"name": "delay", "delays": [0, 1]}).order(3, (4,)),
            ConfigError,
            "2 delays came for 3 levels",
        ),
    ],
)
def test_what_cannot_be_arranged_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
