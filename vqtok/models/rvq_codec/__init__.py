"""The RVQ codec, the audio tokenizer; each name is loaded on first use."""

import importlib

_NAMES = {
    "RVQCodecConfig": "vqtok.models.rvq_codec.configuration_rvq_codec",
    "RVQCodecModel": "vqtok.models.rvq_codec.modeling_rvq_codec",
    "RVQCodecProcessor": "vqtok.models.rvq_codec.audio_processing_rvq_codec",
}

__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)
