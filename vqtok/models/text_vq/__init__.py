"""Text to codes and back, without a loss; each name is loaded on first use."""

import importlib

_NAMES = {
    "TextVQConfig": "vqtok.models.text_vq.configuration_text_vq",
    "TextVQModel": "vqtok.models.text_vq.modeling_text_vq",
}

__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)
