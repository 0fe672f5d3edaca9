import json
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import vqtok.models.auto
from tests.training.test_trainer import history, interrupt_at, state_of
from vqtok.cli import app
from vqtok.data import evaluate_dataset
from vqtok.errors import ConfigError, LoadError
from vqtok.models.auto import AutoVQTokenizer
from vqtok.models.embedding_vq.configuration_embedding_vq import EmbeddingVQConfig
from vqtok.models.embedding_vq.modeling_embedding_vq import EmbeddingVQModel
from vqtok.models.vim_vq.configuration_vim_vq import VimVQConfig
from vqtok.models.vim_vq.image_processing_vim_vq import VimVQImageProcessor
from vqtok.models.vim_vq.modeling_vim_vq import VimVQModel
from vqtok.training import load_recipe, parse_recipe, run, run_recipe
from vqtok.training.run import build_model


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
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_a_recipe_becomes_a_tokenizer_and_a_report(recipe_file, tmp_path):
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


def small_model(**processor_options):
    config = VimVQConfig.preset("nano", width=16, encoder_depth=1, decoder_depth=1, latent_dim=8)
    model = VimVQModel(config)
    model.processor = VimVQImageProcessor(**processor_options)
    return model


def test_the_report_has_the_numbers_of_vqtok_evaluate(recipe_file, tmp_path):
    photos = tmp_path / "photos"
    ramp = np.linspace(0, 65535, 90 * 70).astype(np.uint16).reshape(90, 70)
    Image.fromarray(ramp).save(photos / "deep.png")
    alpha = Image.radial_gradient("L")
    Image.merge("RGBA", [Image.linear_gradient("L")] * 3 + [alpha]).save(photos / "glass.png")
    (photos / ".hidden.png").write_bytes(b"no picture")
    # what shows through transparent pixels is the tokenizer's own affair
    small_model(background=(255, 0, 0)).save_pretrained(tmp_path / "first")

    done = vqtok_train(
        recipe_file,
        "--json",
        f"model={{from_pretrained: {tmp_path / 'first'}}}",
        "training.steps=2",
    )

    result = json.loads(done.stdout)
    ours = result["evaluation"]
    tokenizer = AutoVQTokenizer.from_pretrained(result["tokenizer"], device="cpu")
    theirs = evaluate_dataset(tokenizer, photos, size=64)
    assert ours["images"] == theirs.images == 4
    for name in ("psnr", "ssim", "mse", "bits_per_pixel"):
        assert ours[name] == pytest.approx(getattr(theirs, name), rel=1e-4), name
    for name in ("usage", "perplexity", "entropy_bits"):
        assert ours[f"codebook0_{name}"] == pytest.approx(theirs.codebooks[0][name], rel=1e-3)


def test_a_bundled_name_needs_no_network(recipe_file, tmp_path, monkeypatch):
    model = small_model()
    model.save_pretrained(tmp_path / "pretrained" / "toy")
    monkeypatch.setattr(vqtok.models.auto, "PRETRAINED", tmp_path / "pretrained")

    loaded = build_model(load_recipe(recipe_file, ["model={from_pretrained: vqtok/toy}"]))

    assert loaded.fingerprint.encode == model.fingerprint.encode
    assert str(loaded.device) == "cpu"


def test_a_pickle_is_not_gone_on_from(recipe_file, tmp_path):
    small_model().save_pretrained(tmp_path / "first")
    (tmp_path / "first" / "model.safetensors").rename(tmp_path / "first" / "pytorch_model.bin")

    with pytest.raises(LoadError, match="only safetensors are read"):
        build_model(load_recipe(recipe_file, [f"model={{from_pretrained: {tmp_path / 'first'}}}"]))


def test_a_tokenizer_of_another_type_is_not_gone_on_from(recipe_file, tmp_path):
    EmbeddingVQModel(EmbeddingVQConfig(embedding_dim=8)).save_pretrained(tmp_path / "first")

    with pytest.raises(ConfigError, match="asks for a VimVQModel"):
        build_model(load_recipe(recipe_file, [f"model={{from_pretrained: {tmp_path / 'first'}}}"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.batchsize=2", "did you mean 'batch_size'"),
        ("model.overrides.widht=96", "model.overrides.widht is not a recipe key: did you mean 'wi"),
        ("model.overrides.dtype=float16", "model.overrides.dtype is not a recipe key"),
        ("model.overrides.width=100", "width must be a multiple of 8; got 100"),
        ("model.overrides.width=wide", "width"),
        ("model.overrides.quantizer_config.codebok_size=32", "codebok_size"),
        ("model.preset=huge", "huge"),
        ("model.type=vim", "model.type is one of ["),
        ("model={from_pretrained: /nowhere/at/all}", "/nowhere/at/all"),
        ("data.source=/nowhere", "/nowhere does not exist"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line_and_code_1(recipe_file, tmp_path, override, message):
    done = vqtok_train(recipe_file, override, "--json")

    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    (line,) = done.stdout.splitlines()
    assert message in json.loads(line)["error"]["message"]
    assert f"error: {json.loads(line)['error']['message']}" == done.stderr.splitlines()[-1]
    # nothing is left that the mended recipe would have to be like
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_the_words_of_a_library_are_not_on_stdout(recipe_file, monkeypatch):
    def build(recipe):
        sys.stdout.write("welcome to a library\n")
        return build_model(recipe)

    monkeypatch.setattr(run, "build_model", build)

    done = vqtok_train(recipe_file, "training.steps=1", "--json")

    assert json.loads(done.stdout)["status"] == "finished"
    assert "welcome" in done.stderr


def test_only_the_first_process_prints_the_result(recipe_file, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = run.RunResult("interrupted", 3, "runs/x", None, {})
    monkeypatch.setattr(run, "run_recipe", lambda plan: result)

    done = vqtok_train(recipe_file, "--json")

    assert (done.exit_code, done.stdout) == (1, "")
