"""Tokenizers of the ecosystem behind vqtok's face; one file a family, loaded on first use."""

from vqtok.lazy import on_first_use

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
__getattr__ = on_first_use(__name__, _NAMES)
