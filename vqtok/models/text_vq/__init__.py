"""Text to codes and back, without a loss; each name is loaded on first use."""

from vqtok.lazy import on_first_use

_NAMES = {
    "TextVQConfig": "vqtok.models.text_vq.configuration_text_vq",
    "TextVQModel": "vqtok.models.text_vq.modeling_text_vq",
}

__all__ = list(_NAMES)
__getattr__ = on_first_use(__name__, _NAMES)
