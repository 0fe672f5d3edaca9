"""The command line with the tokenizer of ten lines behind every name that starts with "fake"."""

import pytest
from typer.testing import CliRunner

import vqtok.cli.datasets
import vqtok.cli.info
from tests.data.conftest import datasets_cache, mixed, photos
from tests.data.fake import FakeTokenizer
from vqtok.cli import app
from vqtok.errors import LoadError

__all__ = ["datasets_cache", "mixed", "photos"]


def load_fake(name, device="auto"):
    if not name.startswith("fake"):
        raise LoadError(f"{name} is no tokenizer.\nIt has no config.json.")
    tokenizer = FakeTokenizer(decode="0" * 64) if name == "fake/other" else FakeTokenizer()
    tokenizer.device_asked = device
    return tokenizer


@pytest.fixture
def vqtok_command(monkeypatch):
    """Runs `vqtok ...` in this process; the result has exit_code, stdout and stderr."""
    monkeypatch.setattr(vqtok.cli.datasets, "load_tokenizer", load_fake)
    monkeypatch.setattr(vqtok.cli.info, "load_tokenizer", load_fake)
    runner = CliRunner()

    def run(*arguments):
        return runner.invoke(app, [str(argument) for argument in arguments])

    return run
