"""`import vqtok` in fresh interpreters: what it loads, how long it takes, what it registers."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import vqtok

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "datasets", "triton", "faiss", "ray", "torch_xla", "PIL", "numpy")


def in_fresh_python(program: str) -> str:
    """What a program prints, run where nothing has been imported and no connection works."""
    offline = """
        import socket

        def refuse(*arguments):
            raise OSError("no network in this test")

        socket.socket.connect = refuse
    """
    source = textwrap.dedent(offline) + textwrap.dedent(program)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_importing_is_quick_and_loads_nothing_heavy():
    printed = in_fresh_python(
        """
        import json, sys, time
        start = time.perf_counter()
        import vqtok
        print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
        """
    )

    seconds, modules = json.loads(printed)
    assert {name.split(".")[0] for name in modules}.isdisjoint(HEAVY)
    assert seconds < 3


@pytest.mark.parametrize(
    "first",
    [
        "import vqtok",
        "from transformers import AutoConfig, AutoModel, AutoImageProcessor, AutoFeatureExtractor; "
        "import vqtok",
        "import vqtok.models.base",
    ],
)
def test_the_auto_classes_know_the_models_in_any_order_and_without_extras(first, tmp_path):
    printed = in_fresh_python(
        f"""
        import sys

        for name in ("triton", "faiss", "ray", "torch_xla", "datasets"):
            sys.modules[name] = None  # importing it raises ImportError
        {first}
        from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel
        from vqtok import RVQCodecConfig, RVQCodecModel, VimVQConfig, VimVQModel

        folder = {str(tmp_path)!r}
        VimVQModel(VimVQConfig.preset("nano", width=16, latent_dim=4)).save_pretrained(folder)
        for auto in (AutoConfig, AutoModel, AutoImageProcessor):
            print(type(auto.from_pretrained(folder)).__name__)
        RVQCodecModel(RVQCodecConfig.preset("nano")).save_pretrained(folder)
        for auto in (AutoConfig, AutoModel, AutoFeatureExtractor):
            print(type(auto.from_pretrained(folder)).__name__)
        """
    )

    assert printed.split() == [
        *("VimVQConfig", "VimVQModel", "VimVQImageProcessor"),
        *("RVQCodecConfig", "RVQCodecModel", "RVQCodecProcessor"),
    ]


def test_every_public_name_is_there():
    assert set(vqtok.__all__) <= set(dir(vqtok))
    for name in vqtok.__all__:
        assert getattr(vqtok, name) is not None


def test_folders_are_attributes():
    for name in ("data", "errors", "models", "ops", "quantizers"):
        assert getattr(vqtok, name).__name__ == f"vqtok.{name}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'vqtok' has no attribute 'tokeniser'"):
        _ = vqtok.tokeniser
    with pytest.raises(ImportError):
        from vqtok import tokeniser  # noqa: F401


def test_the_version_is_that_of_the_project(pyproject):
    assert vqtok.__version__ == pyproject["project"]["version"]


def test_a_tokenizer_finds_the_dataset_floor_through_the_roof(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "vqtok.data.tokenize_dataset", lambda *a, **options: calls.append((a, options)) or "report"
    )
    model = vqtok.VimVQModel(vqtok.VimVQConfig.preset("nano", width=16, latent_dim=4))

    assert model.tokenize_dataset("photos", "codes", workers=2) == "report"
    assert calls == [(("photos", "codes", model), {"workers": 2})]
