"""Tokenizers behind transformers' interface; a folder a model, each loaded on first use."""

from vqtok.lazy import on_first_use

_NAMES = {
    "AutoVQTokenizer": "vqtok.models.auto",
    "Fingerprint": "vqtok.models.fingerprint",
    "Rate": "vqtok.models.outputs",
    "VQTokenizerModel": "vqtok.models.base",
    "VQTokenizerOutput": "vqtok.models.outputs",
    "VQTokens": "vqtok.models.outputs",
}

__all__ = list(_NAMES)
__getattr__ = on_first_use(__name__, _NAMES)
