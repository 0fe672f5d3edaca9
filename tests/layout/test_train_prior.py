"""scripts/train_prior.py in a small case: photos in, a prior and pictures out."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoModelForCausalLM

from vqtok.layout import Layout

REPOSITORY = Path(__file__).parents[2]


def test_a_small_prior_trains_samples_and_decodes(tmp_path):
    small = ["--size", "32", "--steps", "30", "--width", "32", "--layers", "1", "--samples", "2"]
    command = [sys.executable, "scripts/train_prior.py", "vqtok/samples", *small, "--lr", "1e-2"]

    done = subprocess.run(
        [*command, "--out", str(tmp_path / "prior"), "--device", "cpu"],
        cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "prior/report.json").read_text())
    assert report["last_loss"] < report["first_loss"] - 1
    prior = AutoModelForCausalLM.from_pretrained(tmp_path / "prior")
    layout = Layout.load(tmp_path / "prior")
    assert prior.config.vocab_size == layout.vocab.padded_size
    with Image.open(tmp_path / "prior/samples.png") as sheet:
        assert sheet.size == (2 * 36, 2 * 32 + 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps wants a number above 0"),
        (["--minutes", "0"], "--minutes wants a number above 0"),
        ([], "no photo that can be read"),
    ],
)
def test_what_gives_no_prior_is_refused_in_a_line(options, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/broken.png").write_bytes(b"no picture")
    arguments = [str(tmp_path / "photos"), "--out", str(tmp_path / "prior"), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["train_prior.py", *arguments, *options])

    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / "scripts/train_prior.py"), run_name="__main__")

    assert message in f"{ended.value} {capsys.readouterr().err}"
    assert not (tmp_path / "prior").exists()
