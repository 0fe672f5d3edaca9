"""Embeddings to codes and back, for semantic IDs; each name is loaded on first use."""

from vqtok.lazy import on_first_use

_NAMES = {
    "EmbeddingReport": "vqtok.models.embedding_vq.report",
    "EmbeddingVQConfig": "vqtok.models.embedding_vq.configuration_embedding_vq",
    "EmbeddingVQModel": "vqtok.models.embedding_vq.modeling_embedding_vq",
}

__all__ = list(_NAMES)
__getattr__ = on_first_use(__name__, _NAMES)
