"""Tokenizers behind transformers' interface; a folder a model, each loaded on first use."""

import importlib

_NAMES = {
    "AutoVQTokenizer": "vqtok.models.auto",
    "Fingerprint": "vqtok.models.fingerprint",
    "Rate": "vqtok.models.outputs",
    "VQTokenizerModel": "vqtok.models.base",
    "VQTokenizerOutput": "vqtok.models.outputs",
    "VQTokens": "vqtok.models.outputs",
}

__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)
