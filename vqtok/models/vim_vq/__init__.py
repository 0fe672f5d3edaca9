"""VIM-VQ, the image tokenizer of Vision-Mamba blocks; each name is loaded on first use."""

from vqtok.lazy import on_first_use

_NAMES = {
    "VimVQConfig": "vqtok.models.vim_vq.configuration_vim_vq",
    "VimVQImageProcessor": "vqtok.models.vim_vq.image_processing_vim_vq",
    "VimVQModel": "vqtok.models.vim_vq.modeling_vim_vq",
}

__all__ = list(_NAMES)
__getattr__ = on_first_use(__name__, _NAMES)
