"""A run that was begun goes on with the very same tokenizer only, down to the last bit."""

import json

import pytest
import torch
from typer.testing import CliRunner

from tests.data.conftest import png
from vqtok import AutoVQTokenizer, VimVQConfig, VimVQModel
from vqtok.cli import app
from vqtok.models.vim_vq import VimVQImageProcessor


def run(*arguments, code: int = 0) -> dict:
    result = CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--json")])
    assert result.exit_code == code, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """A tokenizer, and what becomes of it when the smallest thing is changed."""
    root = tmp_path_factory.mktemp("tokenizers")
    model = VimVQModel(VimVQConfig.preset("nano", encoder_depth=1, decoder_depth=1)).eval()
    model.save_pretrained(root / "first")
    for part in ("encoder", "quantizer"):
        other = AutoVQTokenizer.from_pretrained(root / "first", device="cpu")
        name, tensor = next(
            (name, tensor)
            for name, tensor in getattr(other, part).state_dict().items()
            if tensor.is_floating_point() and tensor.ndim > 1
        )
        value = tensor.view(-1)[7].clone()
        with torch.no_grad():
            tensor.view(-1)[7] = torch.nextafter(value, value + 1)
        other.save_pretrained(root / part)
        loaded = getattr(AutoVQTokenizer.from_pretrained(root / part, device="cpu"), part)
        assert (loaded.state_dict()[name] != getattr(model, part).state_dict()[name]).sum() == 1
    model.processor = VimVQImageProcessor(background=(0, 0, 0))
    model.save_pretrained(root / "background")
    return root


@pytest.fixture
def half(tokenizers, tmp_path):
    """One of two files of a run."""
    (tmp_path / "images").mkdir()
    for index in range(2):
        (tmp_path / f"images/{index}.png").write_bytes(png(index))
    begun = ("tokenize", tmp_path / "images", "-t", tokenizers / "first", "-o", tmp_path / "codes")
    share = ("--executor", "shard", "--task-index", 0, "--num-tasks", 2)
    assert run(*begun, "--unit-rows", 1, *share)["missing_units"] == 1
    return tmp_path


@pytest.mark.parametrize(
    ("other", "part"), [("encoder", "encode"), ("quantizer", "codebook"), ("background", "encode")]
)
def test_a_tokenizer_with_one_bit_or_option_changed_is_refused(tokenizers, half, other, part):
    resume = ("tokenize", half / "images", "-o", half / "codes", "--resume", "-t")
    refused = run(*resume, tokenizers / other, code=1)["error"]

    assert refused["type"] == "FingerprintError"
    assert f"{part} fingerprint" in refused["message"]
    assert run(*resume, tokenizers / "first")["rows"] == 2


def test_codes_are_not_decoded_with_a_codebook_of_one_bit_less_or_more(tokenizers, half):
    run("tokenize", half / "images", "-t", tokenizers / "first", "-o", half / "codes", "--resume")

    decode = ("decode", half / "codes", "-o", half / "back", "-t")
    refused = run(*decode, tokenizers / "quantizer", code=1)["error"]

    assert refused["type"] == "FingerprintError"
    assert "codebook is another" in refused["message"]
    assert run(*decode, tokenizers / "encoder")["files"] == 2
