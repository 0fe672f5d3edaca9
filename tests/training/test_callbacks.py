from types import SimpleNamespace

import pytest
import torch

from vqtok.training.callbacks import MetricsFile, ReconstructionGrid, StderrProgress, report_image

STATE = SimpleNamespace(is_world_process_zero=True, global_step=3, max_steps=10)


def test_progress_goes_to_stderr_and_leaves_stdout_alone(capsys):
    progress = StderrProgress()
    progress.on_train_begin(None, STATE, None)

    progress.on_log(None, STATE, None, logs={"loss": 0.25, "grad_norm": 1.0})
    progress.on_train_end(None, STATE, None)

    out, err = capsys.readouterr()
    assert out == ""
    assert "step 3: loss 0.25" in err


def test_every_log_is_a_line_of_json(tmp_path):
    args = SimpleNamespace(output_dir=str(tmp_path))

    for loss in (0.5, 0.25):
        MetricsFile().on_log(args, STATE, None, logs={"loss": loss})

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 3, "loss": 0.5}', '{"step": 3, "loss": 0.25}']


def test_the_grid_shows_images_over_their_reconstructions():
    images, shown = torch.randint(0, 256, (3, 3, 4, 5), dtype=torch.uint8), []
    grid = ReconstructionGrid(images, lambda x: -x, lambda *call: shown.append(call))

    grid.on_evaluate(SimpleNamespace(device="cpu"), STATE, None)

    ((name, picture, step),) = shown
    assert (name, step, picture.dtype) == ("reconstructions", 3, torch.uint8)
    assert picture.shape == (3, 8, 15)
    assert torch.equal(picture[:, :4, 5:10], images[1])
    assert torch.equal(picture[:, 4:, 5:10], 255 - images[1])


@pytest.mark.parametrize("running", [True, False])
def test_weights_and_biases_gets_a_picture_while_a_run_is_open(running):
    logged = []
    wandb = SimpleNamespace(
        run=object() if running else None,
        Image=lambda array: array.shape,
        log=logged.append,
    )

    report_image([SimpleNamespace(_wandb=wandb)], "grid", torch.zeros(3, 2, 4), 7)

    assert logged == ([{"grid": (2, 4, 3), "train/global_step": 7}] if running else [])
