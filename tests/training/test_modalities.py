"""The shipped recipes of every modality beside images, run for a few steps on data made here."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.training.sounds import write_sounds
from tests.training.test_trainer import history, interrupt_at, state_of
from vqtok.errors import ConfigError
from vqtok.models.auto import AutoVQTokenizer
from vqtok.training import load_recipe, run_recipe
from vqtok.training.modalities import TASKS
from vqtok.training.recipe_sections import MODALITIES

RECIPES = Path(__file__).parents[2] / "recipes"
NANO = ["rvq_codec_nano", "text_vq_nano", "embedding_vq_nano"]
SMALLER = {
    "rvq_codec_nano": [
        "data.crop=2160",
        "data.mix=0.5",
        "evaluation.size=8000",
        "model.overrides.quantizer_config.codebook_size=16",
    ],
    "text_vq_nano": ["data.crop=64", "evaluation.size=64"],
    "embedding_vq_nano": ["training.batch_size=16"],
}
NUMBERS = {
    "rvq_codec_nano": {"sounds", "mel_distance", "si_sdr", "stft_distance", "bits_per_second"},
    "text_vq_nano": {"windows", "byte_accuracy", "bits_per_byte"},
    "embedding_vq_nano": {"vectors", "squared_error", "cosine", "bits_per_vector"},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_sounds(folder / "rvq_codec_nano", count=2, seconds=1.2)
    (folder / "text_vq_nano").mkdir()
    text = "".join(f"{n} green bottles hanging on the wall, ä. " for n in range(99))
    (folder / "text_vq_nano" / "song.txt").write_text(text, encoding="utf-8")
    vectors = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    (folder / "embedding_vq_nano").mkdir()
    np.save(folder / "embedding_vq_nano" / "vectors.npy", vectors)
    return folder


def recipe(name, sources, output, *overrides):
    return load_recipe(
        RECIPES / f"{name}.yaml",
        [
            f"data.source={sources / name}",
            f"evaluation.source={sources / name}",
            f"output={output}",
            "training={steps: 6, batch_size: 2, log_steps: 1, save_steps: 3, warmup_steps: 2, "
            "init_batches: 4, device: cpu, ema_decay: 0.9}",
            *SMALLER[name],
            *overrides,
        ],
    )


@pytest.mark.parametrize("name", NANO)
def test_a_run_that_was_interrupted_ends_as_if_nothing_had_been(
    name, sources, tmp_path, monkeypatch
):
    straight = run_recipe(recipe(name, sources, tmp_path / "straight"))

    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        stopped = run_recipe(recipe(name, sources, tmp_path / "run"))
    finished = run_recipe(recipe(name, sources, tmp_path / "run", "resume=true"))

    assert (stopped.status, stopped.step, finished.status) == ("interrupted", 4, "finished")
    assert history(tmp_path / "run") == history(tmp_path / "straight")
    ours, theirs = (state_of(tmp_path / run / "checkpoint-6") for run in ("run", "straight"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert finished.evaluation == pytest.approx(straight.evaluation, nan_ok=True)
    tokenizer = AutoVQTokenizer.from_pretrained(finished.tokenizer, device="cpu")
    assert tokenizer.modality in TASKS
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert NUMBERS[name] <= report.keys()
    assert all(f"codebook{q}_usage" in report for q in range(tokenizer.num_codebooks))


def test_the_first_sounds_can_be_listened_to(sources, tmp_path):
    result = run_recipe(recipe("rvq_codec_nano", sources, tmp_path / "run", "training.steps=1"))

    original, rate = soundfile.read(tmp_path / "run" / "sounds" / "0.flac")
    ours, _ = soundfile.read(tmp_path / "run" / "sounds" / "0-step1.flac")
    assert (original.shape, rate) == (ours.shape, 16_000) == ((8000,), 16_000)
    assert result.evaluation["sounds"] == 2


def test_a_model_without_weights_to_train_says_to_fit_it(sources, tmp_path):
    overrides = ["model.overrides={embedding_dim: 16}"]

    with pytest.raises(ConfigError, match="`fit` find its codebooks"):
        run_recipe(recipe("embedding_vq_nano", sources, tmp_path / "run", *overrides))


@pytest.mark.parametrize(
    ("name", "override", "match"),
    [
        ("rvq_codec_nano", "data.flip=true", r"data\.flip is not a recipe key"),
        ("rvq_codec_nano", "data.scale=[1.0, 2.0]", r"data\.scale is not a recipe key"),
        ("rvq_codec_nano", "evaluation.batch_size=2", r"evaluation\.batch_size is not"),
        ("rvq_codec_nano", "data.gain_db=[3, 1]", r"data\.gain_db is \[least, most\]"),
        ("vim_vq_nano", "data.gain_db=[0, 1]", r"data\.gain_db is not a recipe key"),
        ("text_vq_nano", "data.memory_mb=5", r"data\.memory_mb is not a recipe key"),
        ("embedding_vq_nano", "data.crop=5", r"data\.crop is not a recipe key"),
        ("embedding_vq_nano", "model.preset=nano", "has no presets"),
        ("text_vq_nano", "model.preset=null", "either preset or from_pretrained"),
        ("text_vq_nano", "model.type=mp3", "model.type is one of"),
        ("text_vq_nano", "data.limit=0", "limit must be at least 1"),
    ],
)
def test_a_key_of_another_modality_is_refused(name, override, match):
    with pytest.raises(ConfigError, match=match):
        load_recipe(RECIPES / f"{name}.yaml", ["data.source=somewhere", override])


def test_every_modality_has_sections_and_a_task():
    assert TASKS.keys() == MODALITIES.keys()
