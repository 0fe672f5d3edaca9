"""vqtok: images, audio, text and embeddings to discrete codes, and back.

    from vqtok import AutoVQTokenizer

    tok = AutoVQTokenizer.from_pretrained("vqtok/vim-vq-tiny")
    tokens = tok.tokenize(["photo.jpg"])
    images = tok.detokenize(tokens)

Importing the package is quick, because every name loads its module on first use. It also makes
transformers' AutoConfig, AutoModel, AutoImageProcessor and AutoFeatureExtractor know the models,
without importing transformers: they are told at the moment when they are first imported themselves.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType

__version__ = "0.1.0"

# public name -> module that defines it
_NAMES = {
    "AutoVQTokenizer": "vqtok.models.auto",
    "EmbeddingVQConfig": "vqtok.models.embedding_vq.configuration_embedding_vq",
    "EmbeddingVQModel": "vqtok.models.embedding_vq.modeling_embedding_vq",
    "Fingerprint": "vqtok.models.fingerprint",
    "RVQCodecConfig": "vqtok.models.rvq_codec.configuration_rvq_codec",
    "RVQCodecModel": "vqtok.models.rvq_codec.modeling_rvq_codec",
    "RVQCodecProcessor": "vqtok.models.rvq_codec.audio_processing_rvq_codec",
    "Rate": "vqtok.models.outputs",
    "TextVQConfig": "vqtok.models.text_vq.configuration_text_vq",
    "TextVQModel": "vqtok.models.text_vq.modeling_text_vq",
    "VQTokenizerModel": "vqtok.models.base",
    "VQTokenizerOutput": "vqtok.models.outputs",
    "VQTokens": "vqtok.models.outputs",
    "VimVQConfig": "vqtok.models.vim_vq.configuration_vim_vq",
    "VimVQImageProcessor": "vqtok.models.vim_vq.image_processing_vim_vq",
    "VimVQModel": "vqtok.models.vim_vq.modeling_vim_vq",
    "VqtokError": "vqtok.errors",
    "build_quantizer": "vqtok.quantizers",
    "load_codes": "vqtok.data",
    "tokenize_dataset": "vqtok.data",
}
_MODULES = (
    "data",
    "devices",
    "errors",
    "layout",
    "metrics",
    "models",
    "nn",
    "ops",
    "quantizers",
    "training",
)

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str):
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"vqtok.{name}")
    else:
        raise AttributeError(f"module 'vqtok' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_MODULES})


def _registrar(name: str) -> Callable[[ModuleType], None]:
    def register(auto: ModuleType) -> None:
        getattr(importlib.import_module("vqtok.models.registration"), name)(auto)

    return register


def _give_datasets(base: ModuleType) -> None:
    """Models know nothing of `vqtok.data`, which is a floor above them: the roof connects both."""

    def run(source, out, tokenizer, **options):
        return importlib.import_module("vqtok.data").tokenize_dataset(
            source, out, tokenizer, **options
        )

    base.VQTokenizerModel.dataset_runner = staticmethod(run)


# module -> what to do once it has been imported
_AFTER_IMPORT = {
    "transformers.models.auto.configuration_auto": _registrar("register_configs"),
    "transformers.models.auto.modeling_auto": _registrar("register_models"),
    "transformers.models.auto.image_processing_auto": _registrar("register_image_processors"),
    "transformers.models.auto.feature_extraction_auto": _registrar("register_feature_extractors"),
    "vqtok.models.base": _give_datasets,
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds the modules of `_AFTER_IMPORT` as Python does, and adds a step to their loading."""

    def find_spec(self, name: str, path=None, target=None):
        if name not in _AFTER_IMPORT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _AFTER_IMPORT[name](module)

            spec.loader.exec_module = exec_module
        return spec


for _name, _step in _AFTER_IMPORT.items():
    if _name in sys.modules:  # transformers came first
        _step(sys.modules[_name])
if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
    sys.meta_path.insert(0, _AfterImport())
