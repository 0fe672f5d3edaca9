import json
import os
import signal

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from tests.training.toy import make_toy, toy_tree
from vqtok.errors import ConfigError, LoadError, VqtokError
from vqtok.training import VQTrainer, build_losses, parse_recipe, run, run_recipe
from vqtok.training.checkpoints import STATE_FILE, last_complete_checkpoint
from vqtok.training.evaluation import ImageEvaluation

ADVERSARY = {"weight": 0.1, "start_step": 2, "lecam": 0.001, "width": 8, "layers": 2}


@pytest.fixture(autouse=True)
def toy_models(monkeypatch):
    """Recipes build the toy tokenizer instead of a preset."""
    monkeypatch.setattr(run, "build_model", lambda recipe: make_toy(recipe.training.seed))


def history(output):
    """The training lines of metrics.jsonl, by step."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


def state_of(checkpoint):
    """Every tensor that a checkpoint holds beside random states, by file and name."""
    found = {}

    def collect(prefix, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(f"{prefix}.{key}", inner)
        elif isinstance(value, torch.Tensor):
            found[prefix] = value

    from safetensors.torch import load_file

    collect("model", load_file(checkpoint / "model.safetensors"))
    for name in ("optimizer.pt", STATE_FILE):
        collect(name, torch.load(checkpoint / name, weights_only=True))
    return found


class KillAt(TrainerCallback):
    """Sends a signal to this process at the start of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def interrupt_at(monkeypatch, step, number=signal.SIGTERM):
    build = run.build_trainer

    def with_kill(*args):
        trainer = build(*args)
        trainer.add_callback(KillAt(step, number))
        return trainer

    monkeypatch.setattr(run, "build_trainer", with_kill)


@pytest.mark.parametrize(("accumulation", "precision"), [(1, "fp32"), (2, "fp32"), (1, "bf16")])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    tmp_path, monkeypatch, accumulation, precision
):
    losses = {"l1": 1.0, "psnr": 0.1, "adversarial": ADVERSARY}
    options = {"accumulation": accumulation, "precision": precision}
    straight = toy_tree(tmp_path / "straight", **options) | {"losses": losses}
    broken = toy_tree(tmp_path / "broken", **options) | {"losses": losses}
    run_recipe(parse_recipe(straight))

    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        stopped = run_recipe(parse_recipe(broken))
    finished = run_recipe(parse_recipe(broken | {"resume": True}))

    assert (stopped.status, stopped.step) == ("interrupted", 7)
    assert (finished.status, finished.step) == ("finished", 12)
    ours, theirs = history(tmp_path / "broken"), history(tmp_path / "straight")
    assert sorted(ours) == sorted(theirs) == list(range(1, 13))
    assert ours == theirs
    ours = state_of(tmp_path / "broken" / "checkpoint-12")
    theirs = state_of(tmp_path / "straight" / "checkpoint-12")
    assert ours.keys() == theirs.keys()
    assert any("average" in k for k in ours)
    assert any("adversary" in k for k in ours)
    assert any("code_sums" in k for k in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    tree = toy_tree(tmp_path / "run", steps=2)
    first = run_recipe(parse_recipe(tree))
    before = (tmp_path / "run" / "metrics.jsonl").read_text()

    again = run_recipe(parse_recipe(tree | {"resume": True}))

    assert again.status == "already_finished"
    assert again.evaluation == first.evaluation
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    with pytest.raises(ConfigError, match="--resume"):
        run_recipe(parse_recipe(tree))


def test_resuming_with_another_model_or_loss_is_refused(tmp_path):
    tree = toy_tree(tmp_path / "run", steps=2)
    run_recipe(parse_recipe(tree))
    longer = tree | {"training": tree["training"] | {"steps": 4}, "resume": True}

    with pytest.raises(ConfigError, match="losses"):
        run_recipe(parse_recipe(longer | {"losses": {"l2": 1.0}}))
    with pytest.raises(ConfigError, match="model"):
        run_recipe(parse_recipe(longer | {"model": {"preset": "tiny"}}))

    assert run_recipe(parse_recipe(longer)).step == 4


def test_sigint_saves_a_checkpoint_and_gives_the_handler_back(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    interrupt_at(monkeypatch, 2, signal.SIGINT)

    result = run_recipe(parse_recipe(toy_tree(tmp_path / "run")))

    assert result.status == "interrupted"
    assert last_complete_checkpoint(tmp_path / "run").name == "checkpoint-3"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path):
    tree = toy_tree(tmp_path / "run")
    run_recipe(parse_recipe(tree))
    assert last_complete_checkpoint(tmp_path / "run").name == "checkpoint-12"

    (tmp_path / "run" / "checkpoint-12" / STATE_FILE).unlink()

    assert last_complete_checkpoint(tmp_path / "run").name == "checkpoint-6"
    with pytest.raises(LoadError, match="not written to its end"):
        trainer(tmp_path / "run").train(str(tmp_path / "run" / "checkpoint-12"))


def trainer(output, model=None, dataset=None, losses=None, callbacks=None, **options):
    """A trainer over random crops, without a recipe."""
    ours = {"ema_decay": 0.0, "init_batches": 0}
    ours |= {name: options.pop(name) for name in list(options) if name in ours}
    settings = {
        "max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none",
        "save_strategy": "no", "remove_unused_columns": False, "ddp_broadcast_buffers": False,
        "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
        "logging_nan_inf_filter": False,
    }  # fmt: skip
    if dataset is None:
        dataset = list(torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8))
    return VQTrainer(
        model=model or make_toy(),
        args=TrainingArguments(output_dir=str(output), **settings | options),
        train_dataset=dataset,
        losses=build_losses(losses or {"l1": 1.0}),
        callbacks=callbacks,
        **ours,
    )


def test_accumulated_small_batches_are_one_large_batch_for_weights_and_codes(tmp_path):
    large = trainer(tmp_path / "a", make_toy(revive_below=0), per_device_train_batch_size=8)
    small = trainer(tmp_path / "b", make_toy(revive_below=0), gradient_accumulation_steps=2)
    for each in (large, small):
        each.model.quantizer.initialize(torch.randn(100, 4, generator=torch.manual_seed(1)))

    large.train()
    small.train()

    for name, value in large.model.state_dict().items():
        torch.testing.assert_close(small.model.state_dict()[name], value, msg=name)


def test_the_codebook_starts_on_latents_of_several_batches_before_the_first_step(tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            seen.append(model.quantizer.codebook.codes.clone())

    ours = trainer(tmp_path, init_batches=3, callbacks=[Look()], max_steps=1)
    calls = []
    start = ours.model.quantizer.initialize
    ours.model.quantizer.initialize = lambda latents: (calls.append(latents), start(latents))

    ours.train()

    (latents,) = calls
    assert latents.shape == (12, 8, 8, 4)
    first = make_toy().encoder(torch.stack(ours.train_dataset[:12]) / 127.5 - 1)
    torch.testing.assert_close(latents, first, rtol=1e-4, atol=1e-5)
    assert not torch.equal(seen[0], make_toy().quantizer.codebook.codes)


def test_upkeep_is_called_once_an_optimizer_step(tmp_path):
    ours = trainer(tmp_path, gradient_accumulation_steps=2, max_steps=3)
    calls, upkeep = [], ours.model.quantizer.upkeep
    ours.model.quantizer.upkeep = lambda: (calls.append(ours.state.global_step), upkeep())

    ours.train()

    assert calls == [0, 1, 2]


def test_the_average_is_evaluated_and_saved_and_the_weights_come_back(tmp_path):
    ours = trainer(tmp_path, ema_decay=0.9, learning_rate=0.01, max_steps=8)
    ours.train()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    own = {name: p.detach().clone() for name, p in ours.model.named_parameters()}

    metrics = ours.evaluate(ImageEvaluation(images))
    ours.save_tokenizer(tmp_path / "tokenizer")

    saved = type(ours.model).from_pretrained(tmp_path / "tokenizer")
    for name, parameter in saved.named_parameters():
        torch.testing.assert_close(parameter, ours.average.shadow[name])
        assert torch.equal(dict(ours.model.named_parameters())[name], own[name])
    assert "use_cache" not in (tmp_path / "tokenizer" / "config.json").read_text()
    codes = saved.encode(images / 127.5 - 1)
    pixels = ((saved.decode(codes) + 1) * 127.5).round().clamp(0, 255)
    error = (pixels - images).double().square().flatten(1).mean(1)
    psnr = (10 * torch.log10(255**2 / error)).mean().item()
    assert metrics["eval_psnr"] == pytest.approx(psnr, abs=1e-4)


def test_the_log_names_every_term_and_every_level(tmp_path):
    ours = trainer(tmp_path, losses={"l1": 1.0, "l2": 0.5}, logging_steps=2)

    ours.train()

    (line,) = history(tmp_path).values()
    assert {"l1", "l2", "quantizer", "commitment", "latent_norm", "grad_norm"} <= line.keys()
    assert {f"codebook0_{n}" for n in ("usage", "perplexity", "entropy_bits")} <= line.keys()
    assert line["loss"] == pytest.approx(line["l1"] + 0.5 * line["l2"] + line["quantizer"])


def test_weight_decay_spares_vectors_and_the_quantizer(tmp_path):
    ours = trainer(tmp_path, make_toy(codebook_dim=2, learning="gradient"))

    decayed = ours.get_decay_parameter_names(ours.model)

    assert sorted(decayed) == ["decoder.0.weight", "decoder.2.weight", "encoder.weight"]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    model = make_toy()
    torch.nn.init.constant_(model.decoder[2].weight, float("nan"))

    with pytest.raises(VqtokError, match="loss is nan at step 1"):
        trainer(tmp_path, model).train()


def test_the_game_begins_at_its_step(tmp_path):
    ours = trainer(tmp_path, losses={"l1": 1.0, "adversarial": ADVERSARY}, max_steps=4)

    ours.train()

    lines = history(tmp_path)
    assert ["discriminator" in lines[step] for step in (1, 2, 3, 4)] == [False, False, True, True]
    assert all("adaptive_weight" in lines[step] for step in (3, 4))


def test_pictures_and_numbers_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tree = toy_tree(tmp_path / "run", steps=2, eval_steps=2, report_to=["tensorboard"])

    run_recipe(parse_recipe(tree))

    (folder,) = (tmp_path / "run" / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Tags()["images"] == ["reconstructions"]
    assert {"train/l1", "train/codebook0_perplexity", "eval/psnr"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    "option",
    [{"ddp_broadcast_buffers": True}, {"remove_unused_columns": True}, {"save_total_limit": 1}],
)
def test_arguments_that_would_do_harm_are_refused(tmp_path, option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        trainer(tmp_path, **option)
