"""Tiny stock Llama models with random weights."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def tiny_llama(vocab, seed=0, spread=1.0, max_length=256):
    """A LlamaForCausalLM of a vocabulary; a large `spread` makes its choices extreme."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_length,
        initializer_range=spread,
        **vocab.config(),
    )
    return LlamaForCausalLM(config).eval()
