import json

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from tests.training.test_trainer import history, interrupt_at, state_of
from vqtok.cli.train import train
from vqtok.training import parse_recipe, run_recipe


@pytest.fixture
def recipe_file(tmp_path, sample_photos):
    """A real nano model for a few steps."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sample_photos[:2]:
        (photos / path.name).write_bytes(path.read_bytes())
    tree = {
        "model": {
            "preset": "nano",
            "overrides": {
                "width": 16,
                "encoder_depth": 1,
                "decoder_depth": 1,
                "latent_dim": 8,
                "quantizer_config": {"kind": "vq", "codebook_size": 32},
            },
        },
        "data": {"source": str(photos), "crop": 32},
        "training": {
            "steps": 12, "batch_size": 2, "log_steps": 1, "save_steps": 6, "warmup_steps": 2,
            "ema_decay": 0.9, "init_batches": 4, "device": "cpu",
        },
        "evaluation": {"source": str(photos), "size": 64},
        "output": str(tmp_path / "run"),
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def vqtok_train(*arguments):
    app = typer.Typer()
    app.command()(train)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_recipe_becomes_a_tokenizer_and_a_report(recipe_file, tmp_path):
    from vqtok.models.vim_vq.modeling_vim_vq import VimVQModel

    done = vqtok_train(recipe_file, "training.steps=3", "--json")

    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["status"] == "finished"
    assert result["evaluation"] == report
    assert report["step"] == 3
    assert report["images"] == 2
    assert report["bits_per_pixel"] == pytest.approx(5 / 64)
    assert 5 < report["psnr"] < 60
    tokenizer = VimVQModel.from_pretrained(result["tokenizer"])
    assert tokenizer.quantizer.codebook.is_initialized


def test_the_real_model_resumes_on_the_same_curve(recipe_file, tmp_path, monkeypatch):
    tree = yaml.safe_load(recipe_file.read_text())
    run_recipe(parse_recipe(tree | {"output": str(tmp_path / "straight")}))

    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        stopped = vqtok_train(recipe_file)
    finished = vqtok_train(recipe_file, "--resume")

    assert stopped.exit_code == 1
    assert "interrupted at step 6" in stopped.stderr
    assert finished.exit_code == 0
    assert history(tmp_path / "run") == history(tmp_path / "straight")
    ours = state_of(tmp_path / "run" / "checkpoint-12")
    theirs = state_of(tmp_path / "straight" / "checkpoint-12")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_training_can_go_on_from_a_tokenizer(recipe_file, tmp_path):
    first = vqtok_train(recipe_file, "training.steps=2", "--json")
    folder = json.loads(first.stdout)["tokenizer"]

    done = vqtok_train(
        recipe_file,
        "--json",
        f"model={{from_pretrained: {folder}}}",
        "training.steps=1",
        "training.init_batches=null",
        f"output={tmp_path / 'second'}",
    )

    # the codebook is the old one, moved by one step, not started again
    assert json.loads(done.stdout)["status"] == "finished"
    old, new = (
        state_of_tokenizer(path)["quantizer.codebook.codes"]
        for path in (folder, tmp_path / "second" / "tokenizer")
    )
    assert (old - new).norm(dim=1).median() < 0.1 * old.norm(dim=1).median()


def state_of_tokenizer(folder):
    from safetensors.torch import load_file

    return load_file(f"{folder}/model.safetensors")


def test_a_wrong_recipe_is_wrong_usage(recipe_file):
    done = vqtok_train(recipe_file, "training.batchsize=2")

    assert done.exit_code == 2
    assert "did you mean 'batch_size'" in done.stderr
