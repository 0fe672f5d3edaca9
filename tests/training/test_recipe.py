from pathlib import Path

import pytest

from vqtok.errors import ConfigError
from vqtok.training.losses import LOSSES
from vqtok.training.recipe import load_recipe, parse_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SMALLEST = {"model": {"preset": "nano"}, "data": {"source": "photos"}}


def write(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid_once_it_has_data(path):
    recipe = load_recipe(path, ["data.source=photos"])

    assert recipe.losses.keys() <= LOSSES.keys()
    assert recipe.training.steps > 0


def test_overrides_reach_every_depth(tmp_path):
    path = write(tmp_path, "model: {preset: tiny}\ndata: {source: a}\nlosses: {l1: 1}\n")

    recipe = load_recipe(
        path,
        [
            "training.lr=5e-4",
            "model.overrides.quantizer_config.codebook_size=512",
            "losses.l1.weight=0.5",
            "losses.adversarial.weight=0.1",
            "evaluation.source=null",
            "output=elsewhere",
        ],
    )

    assert recipe.training.lr == 5e-4
    assert recipe.model.overrides == {"quantizer_config": {"codebook_size": 512}}
    assert recipe.losses == {"l1": {"weight": 0.5}, "adversarial": {"weight": 0.1}}
    assert recipe.output == "elsewhere"


def test_a_recipe_written_and_read_again_is_the_same():
    recipe = parse_recipe(SMALLEST)

    assert parse_recipe(recipe.as_dict()) == recipe


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"trainig": {}}, "did you mean 'training'"),
        ({"training": {"batchsize": 2}}, r"training\.batchsize .* 'batch_size'"),
        ({"training": {"lr": "fast"}}, r"training\.lr should be float"),
        ({"training": {"steps": 1.5}}, r"training\.steps should be int"),
        ({"training": {"steps": True}}, r"training\.steps should be int"),
        ({"data": {"source": "a", "flip": 1}}, r"data\.flip should be bool"),
        ({"training": {"precision": "fp16"}}, r"one of \['fp32', 'bf16'\]"),
        ({"training": {"steps": 0}}, "at least 1"),
        ({"training": {"keep_checkpoints": 1}}, "at least 2"),
        ({"training": {"schedule": "linear", "lr_min": 1e-5}}, "cosine"),
        ({"training": {"ema_decay": 1.0}}, "ema_decay"),
        ({"training": {"betas": [0.9]}}, "two numbers"),
        ({"training": {"lr": 1e-4, "lr_min": 1e-3}}, "lr_min"),
        ({"training": {"eval_steps": 5}}, r"evaluation\.source"),
        ({"training": 5}, "training should be a mapping"),
        ({"model": {}}, "either preset or from_pretrained"),
        ({"model": {"preset": "nano", "from_pretrained": "x"}}, "not both"),
        ({"model": {"from_pretrained": "x", "overrides": {"width": 1}}}, "overrides"),
        ({"data": {}}, r"data\.source is missing"),
        ({"data": {"source": "a", "scale": [1.0]}}, r"data\.scale"),
        ({"evaluation": {"size": 8}}, "size >= 16"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_to_do(change, match):
    with pytest.raises(ConfigError, match=match):
        parse_recipe(SMALLEST | change)


def test_a_missing_section_is_named():
    with pytest.raises(ConfigError, match="lacks data"):
        parse_recipe({"model": {"preset": "nano"}})


@pytest.mark.parametrize("text", ["a: [1", "just words", "- a list"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_recipe(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["training.lr", "=5", "training..lr=1"])
def test_an_override_that_is_none_is_refused(tmp_path, override):
    path = write(tmp_path, "model: {preset: tiny}\ndata: {source: a}\n")

    with pytest.raises(ConfigError, match="key=value"):
        load_recipe(path, [override])
