"""VIM-VQ, the image tokenizer of Vision-Mamba blocks; each name is loaded on first use."""

import importlib

_NAMES = {
    "VimVQConfig": "vqtok.models.vim_vq.configuration_vim_vq",
    "VimVQImageProcessor": "vqtok.models.vim_vq.image_processing_vim_vq",
    "VimVQModel": "vqtok.models.vim_vq.modeling_vim_vq",
}

__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)
