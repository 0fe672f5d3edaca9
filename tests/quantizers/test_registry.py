"""build_quantizer obeys an argument or refuses it."""

import pytest

from vqtok.errors import ConfigError
from vqtok.quantizers import QUANTIZERS, Quantizer, build_quantizer


def test_every_kind_is_a_quantizer():
    assert set(QUANTIZERS) >= {"vq", "residual", "fsq", "spatial"}
    assert all(issubclass(kind, Quantizer) for kind in QUANTIZERS.values())


def test_arguments_reach_the_quantizer():
    quantizer = build_quantizer(kind="residual", dim=8, codebook_size=32, num_codebooks=5)

    assert quantizer.dim == 8
    assert quantizer.codebook_size == 32
    assert quantizer.num_codebooks == 5
    assert quantizer.codebook_sizes == (32,) * 5


@pytest.mark.parametrize("kind", ["vq", "fsq", "spatial"])
def test_one_codebook_suits_every_kind_and_two_do_not(kind):
    arguments = (
        {"levels": [5, 5, 5], "dim": 3} if kind == "fsq" else {"codebook_size": 64, "dim": 8}
    )

    assert build_quantizer(kind=kind, num_codebooks=1, **arguments).num_codebooks == 1
    with pytest.raises(ConfigError, match="num_codebooks"):
        build_quantizer(kind=kind, num_codebooks=2, **arguments)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"fsq, .*vq.*'magic'"):
        build_quantizer(kind="magic", dim=8)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "vq", "dim": 8, "codebook_size": 64, "colour": 1}, "colour"),
        ({"kind": "vq", "dim": 8}, "codebook_size"),
        ({"kind": "residual", "dim": 8, "codebook_size": 64}, "num_codebooks"),
        ({"kind": "residual", "dim": 8, "codebook_size": 64, "num_codebooks": 0}, "codebook"),
        (
            {"kind": "residual", "dim": 8, "codebook_size": 64, "num_codebooks": 2,
             "unit_norm": True},
            "unit_norm",
        ),
        ({"kind": "fsq", "dim": 8, "codebook_size": 64}, "levels"),
        ({"kind": "fsq", "dim": 3, "levels": [5, 5, 5], "codebook_size": 64}, "codebook_size"),
        ({"kind": "spatial", "dim": 8, "codebook_size": 100, "num_regions": 3}, "codebook_size"),
    ],
)  # fmt: skip
def test_an_argument_that_does_not_fit_is_named(arguments, named):
    with pytest.raises(ConfigError, match=named):
        build_quantizer(**arguments)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("vq", "codebook_size", "a"),
        ("vq", "codebook_size", 1),
        ("vq", "codebook_size", 64.0),
        ("vq", "codebook_size", True),
        ("vq", "dim", 8.0),
        ("vq", "codebook_dim", "4"),
        ("vq", "decay", "0.9"),
        ("vq", "revive_below", None),
        ("vq", "commitment_weight", "much"),
        ("residual", "num_codebooks", 2.0),
        ("residual", "level_dropout", "half"),
        ("residual_unit", "num_codebooks", 2.0),
        ("residual_unit", "code_dim", 4.0),
        ("residual_unit", "learning", "magic"),
        ("residual_unit", "level_dropout", "half"),
        ("product", "num_codebooks", "2"),
        ("spatial", "num_regions", 2.0),
        ("spatial", "num_regions", 0),
        ("fsq", "dim", 3.0),
        ("fsq", "codebook_size", 125.0),
        ("fsq", "levels", 3),
        ("fsq", "levels", [8.5, 3]),
    ],
)
def test_a_value_of_another_type_is_refused_and_named(kind, name, value):
    arguments = {"kind": kind, "dim": 8}
    arguments |= {"levels": [5, 5, 5]} if kind == "fsq" else {"codebook_size": 64}
    arguments |= {"num_codebooks": 2} if kind in ("residual", "residual_unit", "product") else {}

    build_quantizer(**arguments)
    with pytest.raises(ConfigError, match=name):
        build_quantizer(**arguments | {name: value})
