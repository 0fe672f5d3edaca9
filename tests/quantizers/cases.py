"""One small configuration of every quantizer kind and its variants, for the law tests."""

import torch
from torch import Tensor

from vqtok.quantizers import QUANTIZERS, Quantizer, build_quantizer

DIM = 8
CASES: dict[str, dict] = {
    "vq": {"kind": "vq", "codebook_size": 37},
    "vq-gradient": {"kind": "vq", "codebook_size": 37, "learning": "gradient"},
    "vq-unit": {"kind": "vq", "codebook_size": 37, "unit_norm": True},
    "vq-unit-gradient": {
        "kind": "vq", "codebook_size": 37, "unit_norm": True, "learning": "gradient",
    },
    "vq-factorized": {"kind": "vq", "codebook_size": 37, "codebook_dim": 4, "unit_norm": True},
    "vq-rotation": {"kind": "vq", "codebook_size": 37, "gradient": "rotation"},
    "residual": {"kind": "residual", "codebook_size": 16, "num_codebooks": 3},
    "residual-gradient": {
        "kind": "residual", "codebook_size": 16, "num_codebooks": 3, "learning": "gradient",
    },
    "residual-unit": {
        "kind": "residual_unit", "codebook_size": 16, "num_codebooks": 3, "code_dim": 4,
        "learning": "ema",
    },
    "residual-unit-gradient": {
        "kind": "residual_unit", "codebook_size": 16, "num_codebooks": 3, "code_dim": 4,
    },
    "product": {"kind": "product", "codebook_size": 16, "num_codebooks": 4},
    "product-gradient": {
        "kind": "product", "codebook_size": 16, "num_codebooks": 2, "learning": "gradient",
    },
    "fsq": {"kind": "fsq", "levels": [8, 5, 5]},
    "fsq-even-odd": {"kind": "fsq", "levels": [3, 4, 5, 6, 3, 4, 3, 3]},
    "spatial": {"kind": "spatial", "codebook_size": 64, "num_regions": 2},
    "spatial-unit": {
        "kind": "spatial", "codebook_size": 64, "num_regions": 2, "unit_norm": True,
    },
    "spatial-gradient": {
        "kind": "spatial", "codebook_size": 64, "num_regions": 2, "learning": "gradient",
    },
}  # fmt: skip

missing = set(QUANTIZERS) - {case["kind"] for case in CASES.values()}
if missing:
    raise ValueError(f"add a case to {__file__} for the quantizer kinds {sorted(missing)}")


def build(name: str, **changes: object) -> Quantizer:
    return build_quantizer(**{**CASES[name], "dim": DIM, **changes})


def draw(batch: int = 3, height: int = 5, width: int = 7, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, height, width, DIM, generator=generator)


def trained(name: str, steps: int = 3, **changes: object) -> Quantizer:
    """A quantizer in training mode after a few steps on random latents."""
    quantizer = build(name, **changes).train()
    for step in range(steps):
        quantizer(draw(seed=step))
    return quantizer
