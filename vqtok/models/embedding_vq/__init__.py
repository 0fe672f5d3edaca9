"""Embeddings to codes and back, for semantic IDs; each name is loaded on first use."""

import importlib

_NAMES = {
    "EmbeddingReport": "vqtok.models.embedding_vq.report",
    "EmbeddingVQConfig": "vqtok.models.embedding_vq.configuration_embedding_vq",
    "EmbeddingVQModel": "vqtok.models.embedding_vq.modeling_embedding_vq",
}

__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)
