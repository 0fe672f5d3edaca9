"""The two networks of a text tokenizer: bytes of a patch to its latent, and back to bytes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.models.text_vq.configuration_text_vq import TextVQConfig
from vqtok.models.text_vq.text_processing_text_vq import BYTES, to_patches
from vqtok.nn.mlp import ResidualMLP
from vqtok.quantizers.precision import Float32Module, float32_linear

BYTE_WIDTH = 16
SHARPNESS = 8.0  # logits between neighbouring bytes in a fresh decoder


def digits_of(width: int) -> Tensor:
    """Every byte as `width` digits, centred on 0: float32 [256, width].

    The base is the smallest that tells 256 values apart; 16 for two digits, 4 for four. Different
    bytes are at least 1 apart.
    """
    base = next(b for b in range(2, BYTES + 1) if b**width >= BYTES)
    places = base ** torch.arange(width - 1, -1, -1)
    digits = torch.arange(BYTES)[:, None] // places % base
    return digits - (base - 1) / 2


def place_weights(latent_dim: int, patch_bytes: int) -> Tensor:
    """The map from the first digits of every place to the latent: [D, P BYTE_WIDTH]."""
    keep = torch.eye(latent_dim).view(latent_dim, patch_bytes, -1)
    return F.pad(keep, (0, BYTE_WIDTH - keep.shape[-1])).flatten(1)


class TextVQEncoder(nn.Module):
    """Bytes [B, L] int64, PAD allowed, to latents [B, ceil(L / P), D]."""

    def __init__(self, config: TextVQConfig):
        super().__init__()
        self.patch_bytes, self.latent_dim = config.patch_bytes, config.latent_dim
        self.embedding = nn.Embedding(BYTES + 1, BYTE_WIDTH)
        self.to_width = nn.Linear(config.patch_bytes * BYTE_WIDTH, config.width)
        self.blocks = nn.Sequential(
            *(ResidualMLP(config.width, config.width) for _ in range(config.encoder_depth))
        )
        self.to_latent = nn.Linear(config.width, config.latent_dim)

    def reset_parameters(self) -> None:
        """The latent is the digits of the patch's bytes, 0 for PAD."""
        digits = self.latent_dim // self.patch_bytes
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.embedding.weight[:, :digits] = 0
        self.embedding.weight[:BYTES, :digits] = digits_of(digits).to(self.embedding.weight)
        self.to_width.weight[: self.latent_dim] = place_weights(self.latent_dim, self.patch_bytes)
        nn.init.zeros_(self.to_width.bias)
        nn.init.eye_(self.to_latent.weight)
        nn.init.zeros_(self.to_latent.bias)

    def forward(self, byte_values: Tensor) -> Tensor:
        patches = to_patches(byte_values, self.patch_bytes)
        return self.to_latent(self.blocks(self.to_width(self.embedding(patches).flatten(2))))


class TextVQDecoder(Float32Module):
    """Latents [..., D] to logits [..., P, 256] of the patch's bytes, float32 by itself."""

    def __init__(self, config: TextVQConfig):
        super().__init__()
        self.patch_bytes, self.latent_dim = config.patch_bytes, config.latent_dim
        self.from_latent = float32_linear(config.latent_dim, config.width)
        self.blocks = nn.Sequential(
            *(
                ResidualMLP(config.width, config.width, torch.float32)
                for _ in range(config.decoder_depth)
            )
        )
        self.to_places = float32_linear(config.width, config.patch_bytes * BYTE_WIDTH)
        self.to_bytes = float32_linear(BYTE_WIDTH, BYTES)

    def reset_parameters(self) -> None:
        """The likeliest byte is the one with the nearest digits."""
        digits = digits_of(self.latent_dim // self.patch_bytes).to(self.to_bytes.weight)
        self.from_latent.weight[: self.latent_dim] = torch.eye(self.latent_dim)
        places = place_weights(self.latent_dim, self.patch_bytes)
        self.to_places.weight.view(self.patch_bytes, BYTE_WIDTH, -1)[:, : digits.shape[1]] = 0
        self.to_places.weight[:, : self.latent_dim] = places.T
        nn.init.zeros_(self.from_latent.bias)
        nn.init.zeros_(self.to_places.bias)
        # -|z - p|^2 of a byte's digits p, without the |z|^2 that all bytes share
        nn.init.zeros_(self.to_bytes.weight)
        self.to_bytes.weight[:, : digits.shape[1]] = 2 * SHARPNESS * digits
        self.to_bytes.bias.copy_(-SHARPNESS * digits.square().sum(1))

    def forward(self, latents: Tensor) -> Tensor:
        places = self.to_places(self.blocks(self.from_latent(latents)))
        return self.to_bytes(places.unflatten(-1, (self.patch_bytes, BYTE_WIDTH)))


def likeliest(logits: Tensor) -> Tensor:
    """Logits [..., 256] to bytes [...] int64."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    # numpy's is ten times as fast as torch's on a CPU: 0.3 against 3 microseconds a patch
    return torch.from_numpy(logits.detach().float().numpy().argmax(-1))
