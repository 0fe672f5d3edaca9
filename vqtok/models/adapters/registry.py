"""Which foreign configs vqtok knows, by transformers' `model_type` or diffusers' `_class_name`."""

import importlib
from collections.abc import Mapping
from typing import Any

# a multimodal model is known by its own type; only its image tokenizer is read
ADAPTERS = {
    "chameleon": ("chameleon", "ChameleonTokenizer"),
    "chameleon_vqgan": ("chameleon", "ChameleonTokenizer"),
    "dac": ("dac", "DacTokenizer"),
    "emu3": ("emu3", "Emu3Tokenizer"),
    "emu3_vqgan": ("emu3", "Emu3Tokenizer"),
    "encodec": ("encodec", "EncodecTokenizer"),
    "janus": ("janus", "JanusTokenizer"),
    "janus_vqgan": ("janus", "JanusTokenizer"),
    "mimi": ("mimi", "MimiTokenizer"),
    "xcodec2": ("xcodec2", "Xcodec2Tokenizer"),
}
DIFFUSERS_ADAPTERS = {"VQModel": ("diffusers_vq", "DiffusersVQTokenizer")}


def adapter_for(content: Mapping[str, Any]) -> type | None:
    """The adapter for the content of a config.json; None if it is of no family known here."""
    model_type, class_name = content.get("model_type"), content.get("_class_name")
    if isinstance(model_type, str):
        found = ADAPTERS.get(model_type)
    else:
        found = DIFFUSERS_ADAPTERS.get(class_name) if isinstance(class_name, str) else None
    if found is None:
        return None
    return getattr(importlib.import_module(f"vqtok.models.adapters.{found[0]}"), found[1])


def known_names() -> list[str]:
    """What `adapter_for` knows, for an error."""
    return [*ADAPTERS, *(f"diffusers {name}" for name in DIFFUSERS_ADAPTERS)]
