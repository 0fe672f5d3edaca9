"""Tokenizers of the ecosystem behind vqtok's face; one file a family, loaded on first use."""

import importlib

_NAMES = {
    "AdapterModel": "vqtok.models.adapters.base",
    "ChameleonTokenizer": "vqtok.models.adapters.chameleon",
    "DacTokenizer": "vqtok.models.adapters.dac",
    "DiffusersVQTokenizer": "vqtok.models.adapters.diffusers_vq",
    "Emu3Tokenizer": "vqtok.models.adapters.emu3",
    "EncodecTokenizer": "vqtok.models.adapters.encodec",
    "JanusTokenizer": "vqtok.models.adapters.janus",
    "MimiTokenizer": "vqtok.models.adapters.mimi",
    "Xcodec2Tokenizer": "vqtok.models.adapters.xcodec2",
}

__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)
