import copy
import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from tests.training.toy import make_toy, toy_tree
from vqtok.errors import ConfigError
from vqtok.training import parse_recipe, run, run_recipe
from vqtok.training.balancer import LossBalancer
from vqtok.training.checkpoints import STATE_FILE
from vqtok.training.losses import build_losses


def gradient_of(balancer, terms, weights, batch=3):
    """The balanced gradient at a reconstruction [batch, 5] of ones."""
    x = torch.ones(batch, 5, requires_grad=True)
    values = {name: term(x) for name, term in terms.items()}
    loss, _ = balancer.balance(values, weights, x)
    loss.backward()
    return x.grad


def first(x):
    return x[:, 0].mean()


def last(x):
    return x[:, 4].mean()


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_shares_are_the_weights_whatever_the_scales(scale_a, scale_b, weight_a, weight_b):
    terms = {"a": lambda x: scale_a * first(x), "b": lambda x: scale_b * last(x)}

    gradient = gradient_of(LossBalancer(total_norm=2.0), terms, {"a": weight_a, "b": weight_b})

    total = weight_a + weight_b
    wanted = torch.tensor([weight_a / total, 0, 0, 0, weight_b / total])
    torch.testing.assert_close(gradient.sum(0), 2.0 * wanted, rtol=1e-4, atol=1e-6)


def test_the_value_is_the_weighted_sum():
    x = torch.ones(2, 5, requires_grad=True)

    loss, norms = LossBalancer().balance(
        {"a": 3 * first(x), "b": 5 * last(x)}, {"a": 1.0, "b": 2.0, "unused": 9.0}, x
    )

    assert loss.item() == pytest.approx(13.0)
    # the mean over two items halves each one's gradient
    assert {k: v.item() for k, v in norms.items()} == pytest.approx({"a": 1.5, "b": 2.5})


def test_norms_are_running_means_without_a_bias_to_the_start():
    balancer, x = LossBalancer(decay=0.5), torch.ones(1, 5, requires_grad=True)

    seen = [balancer.balance({"a": s * first(x)}, {"a": 1.0}, x)[1]["a"].item() for s in (1, 4, 4)]

    assert seen == pytest.approx([1.0, (4 + 0.5) / 1.5, (4 + 2 + 0.25) / 1.75])


def test_a_term_that_comes_later_starts_its_own_mean_and_takes_its_share():
    balancer = LossBalancer()
    for _ in range(5):
        gradient_of(balancer, {"a": first}, {"a": 1.0})

    gradient = gradient_of(balancer, {"a": first, "b": lambda x: 100 * last(x)}, {"a": 1, "b": 1})

    torch.testing.assert_close(gradient.sum(0), torch.tensor([0.5, 0, 0, 0, 0.5]))


def test_a_batch_counts_as_the_mean_of_its_parts():
    whole = gradient_of(LossBalancer(), {"a": first}, {"a": 1.0}, batch=4)
    part = gradient_of(LossBalancer(), {"a": first}, {"a": 1.0}, batch=2)

    torch.testing.assert_close(whole.sum(0), part.sum(0))


def test_a_term_without_a_gradient_does_no_harm():
    gradient = gradient_of(
        LossBalancer(), {"a": first, "b": lambda x: 0 * last(x)}, {"a": 1.0, "b": 1.0}
    )

    torch.testing.assert_close(gradient.sum(0), torch.tensor([0.5, 0, 0, 0, 0]))


def test_every_process_divides_by_the_mean_norm_of_all(monkeypatch):
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    # the other process has a gradient of length 3, this one of 1
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.add_(3.0))

    gradient = gradient_of(LossBalancer(), {"a": first}, {"a": 1.0}, batch=1)

    torch.testing.assert_close(gradient, torch.tensor([[0.5, 0, 0, 0, 0]]))


def test_the_state_continues_the_same_means():
    ours, theirs = LossBalancer(decay=0.9), LossBalancer(decay=0.9)
    terms = {"a": lambda x: 7 * first(x)}
    gradient_of(ours, terms, {"a": 1.0})

    theirs.load_training_state(copy.deepcopy(ours.training_state()))

    for balancer in (ours, theirs):
        gradient_of(balancer, {"a": first}, {"a": 1.0})
    after = [gradient_of(b, {"a": first}, {"a": 1.0}) for b in (ours, theirs)]
    assert torch.equal(*after)
    assert not torch.equal(after[0], gradient_of(LossBalancer(), {"a": first}, {"a": 1.0}))


def test_the_adversarys_terms_are_balanced_with_the_others():
    section = {
        "waveform": 1.0,
        "adversarial_audio": {
            "weight": 2.0, "feature_matching": 0.5, "width": 2, "periods": [2], "windows": [64],
        },
        "balancer": {"decay": 0.0},
    }  # fmt: skip
    losses, layer = build_losses(section), nn.Conv1d(1, 1, 1)
    target = torch.randn(2, 1, 400)
    ours = layer(target)
    terms, game = losses.terms(ours, target), losses.adversary.generator_terms(ours, target)

    loss, named = losses.combine(terms, game, ours, None)

    gradient = torch.autograd.grad(loss, ours)[0]
    shares = {"waveform": 1 / 4, "adversarial": 2 / 4, "feature_matching": 1 / 4}
    fresh = losses.terms(ours, target) | losses.adversary.generator_terms(ours, target)
    wanted = torch.zeros_like(gradient)
    for name, share in shares.items():
        one = torch.autograd.grad(fresh[name], ours, retain_graph=True)[0]
        wanted += share * one / one.flatten(1).norm(dim=1).mean() / 2
    torch.testing.assert_close(gradient, wanted)
    assert {f"{name}_gradient" for name in shares} | shares.keys() == named.keys()
    assert all(not value.requires_grad for value in named.values())


def test_without_a_balancer_the_game_is_added_by_its_weights():
    options = {"weight": 2.0, "feature_matching": 0.5, "discriminators": ["mpd"], "width": 2}
    losses = build_losses({"waveform": 3.0, "adversarial_audio": options})
    ours, target = torch.randn(1, 1, 300), torch.randn(1, 1, 300)
    terms, game = losses.terms(ours, target), losses.adversary.generator_terms(ours, target)

    loss, _ = losses.combine(terms, game, ours, None)

    wanted = 3 * terms["waveform"] + 2 * (game["adversarial"] + 0.5 * game["feature_matching"])
    torch.testing.assert_close(loss, wanted)


def test_a_resumed_run_keeps_the_balance(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "build_model", lambda recipe: make_toy(recipe.training.seed))
    tree = toy_tree(tmp_path / "run", steps=6, save_steps=3) | {
        "losses": {
            "l1": 1.0,
            "psnr": 0.3,
            "adversarial": {
                "weight": 0.5, "adaptive": False, "start_step": 2, "width": 8, "layers": 2,
            },
            "balancer": {"decay": 0.9},
        }
    }  # fmt: skip
    run_recipe(parse_recipe(tree))
    straight = read_run(tmp_path / "run")

    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    (tmp_path / "run" / "evaluation.json").unlink()
    run_recipe(parse_recipe(tree | {"resume": True}))

    again = read_run(tmp_path / "run")
    assert set(straight["balancer"]["sums"]) == {"l1", "psnr", "adversarial"}
    for part in ("weights", "balancer"):
        torch.testing.assert_close(again[part], straight[part], rtol=0, atol=0)
    assert again["lines"][6]["l1_gradient"] == straight["lines"][6]["l1_gradient"]


def read_run(folder):
    """The last checkpoint's weights and balancer, and the last log line of every step."""
    state = torch.load(folder / "checkpoint-6" / STATE_FILE, weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": load_file(folder / "checkpoint-6" / "model.safetensors"),
        "balancer": state["balancer"],
        "lines": {line["step"]: line for line in lines if "loss" in line},
    }


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"balancer": 3}, "true, false or a mapping"),
        ({"balancer": {"total_norm": 0}}, "total_norm above 0"),
        ({"balancer": {"decay": 1.0}}, "decay"),
        ({"balancer": {"weight": 1.0}}, "takes total_norm, decay"),
        ({"balancer": True, "adversarial": 1.0}, "adaptive=false"),
        ({"balanser": True}, "Did you mean 'balancer'"),
    ],
)
def test_a_balancer_that_cannot_be_is_refused(section, match):
    with pytest.raises(ConfigError, match=match):
        build_losses({"l1": 1.0} | section)


def test_a_balancer_that_is_off_is_none():
    assert build_losses({"l1": 1.0, "balancer": False}).balancer is None
