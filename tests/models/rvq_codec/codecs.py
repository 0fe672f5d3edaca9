"""Small codecs whose every layer matters, and sounds for them."""

import functools

import numpy as np
import torch
from torch import Tensor, nn

from vqtok.models.rvq_codec.configuration_rvq_codec import RVQCodecConfig
from vqtok.models.rvq_codec.modeling_rvq_codec import RVQCodecModel
from vqtok.nn.causal_mamba import CausalMambaBlock
from vqtok.nn.local_attention import LocalAttentionBlock
from vqtok.nn.time_layers import ConvBlock

RATE = 16_000
HOP = 24
MIDDLES = ("none", "mamba", "transformer")
KINDS = {
    "residual": {"kind": "residual", "codebook_size": 16, "num_codebooks": 3},
    "residual_unit": {
        "kind": "residual_unit",
        "codebook_size": 16,
        "num_codebooks": 3,
        "code_dim": 4,
    },
    "vq": {"kind": "vq", "codebook_size": 64, "unit_norm": True},
    "fsq": {"kind": "fsq", "levels": [8, 5, 5]},
}


def small(kind: str = "residual", **fields) -> RVQCodecModel:
    """A fresh codec with a hop of 24 samples."""
    sizes = {
        "strides": [6, 4],
        "widths": [16, 24],
        "latent_dim": 8,
        "quantizer_config": KINDS[kind],
    }
    if kind == "fsq":
        sizes["latent_dim"] = 3
    return RVQCodecModel(RVQCodecConfig.preset("nano", **(sizes | fields))).eval()


@torch.no_grad()
def lively(kind: str = "residual", **fields) -> RVQCodecModel:
    """What training does in the long run: no block is the identity, every latent is the network's
    too, and codes lie where latents do."""
    model = small(kind, **fields)
    for module in model.modules():
        if isinstance(module, (ConvBlock, LocalAttentionBlock)):
            nn.init.normal_(module.gather.weight, std=0.1)
        if isinstance(module, LocalAttentionBlock):
            nn.init.normal_(module.mixed.weight, std=0.2)
        if isinstance(module, CausalMambaBlock):
            module.out_proj.weight.mul_(10)
    model.encoder.paths.second[-1].weight.normal_(std=0.3)
    latents = model.encoder(noise(2, model.channels, 200 * model.hop, seed=7))
    model.quantizer.initialize(latents)
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.2


def tone(samples: int, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Float32 [C, samples], half of full scale."""
    time = np.arange(samples) / rate
    waves = [0.5 * np.sin(2 * np.pi * 300 * (c + 1) * time) for c in range(channels)]
    return np.stack(waves).astype(np.float32)


@functools.cache
def case(causal: bool, middle: str) -> tuple[RVQCodecModel, Tensor, Tensor]:
    """A codec, a batch of two sounds that end within a hop, and their codes."""
    torch.manual_seed(3)
    model, samples = lively(causal=causal, middle=middle), noise(2, 1, 20 * HOP + 7)
    with torch.no_grad():
        return model, samples, model.encode(samples)
