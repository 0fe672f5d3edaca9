"""The smallest image tokenizer: one matrix to latents, a quantizer, one matrix back."""

import math

import torch
from huggingface_hub.dataclasses import strict
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from vqtok.models.base import Rate, VQTokenizerModel
from vqtok.quantizers import build_quantizer

PATCH = 4


@strict
class ToyConfig(PreTrainedConfig):
    model_type = "vqtok_toy"

    latent_dim: int = 6
    encoder_gain: int | float = 1
    decoder_gain: int | float = 1
    quantizer_config: dict | None = None

    def __post_init__(self, **kwargs):
        if self.quantizer_config is None:
            self.quantizer_config = {"kind": "vq", "codebook_size": 16}
        super().__post_init__(**kwargs)


class ToyEncoder(nn.Module):
    def __init__(self, latent_dim: int):
        super().__init__()
        self.project = nn.Linear(3 * PATCH**2, latent_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = (-size % PATCH for size in pixels.shape[2:])
        pixels = F.pad(pixels, (0, width, 0, height), mode="replicate")
        return self.project(F.pixel_unshuffle(pixels, PATCH).movedim(1, -1))


class ToyDecoder(nn.Module):
    def __init__(self, latent_dim: int):
        super().__init__()
        self.project = nn.Linear(latent_dim, 3 * PATCH**2)

    def forward(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self.project(latents).movedim(-1, 1), PATCH)


class ToyTokenizer(VQTokenizerModel):
    """Raw items are PIL images in RGB."""

    config: ToyConfig
    config_class = ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.encoder = ToyEncoder(config.latent_dim)
        self.quantizer = build_quantizer(dim=config.latent_dim, **config.quantizer_config)
        self.decoder = ToyDecoder(config.latent_dim)
        self.post_init()

    @property
    def rate(self) -> Rate:
        return Rate(sum(math.log2(size) for size in self.codebook_sizes) / PATCH**2, "pixel")

    @property
    def hop(self) -> int:
        return PATCH

    def hidden_layers(self) -> list[nn.Module]:
        return [self.encoder.project, self.decoder.project]

    def canary_inputs(self) -> Tensor:
        return (torch.arange(4 * 3 * 64).view(4, 3, 8, 8) * 37 % 256) / 127.5 - 1

    def _read(self, item: Image.Image) -> tuple[Tensor, dict]:
        pixels = torch.frombuffer(bytearray(item.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(item.height, item.width, 3).permute(2, 0, 1)
        return pixels / 127.5 - 1, {"height": item.height, "width": item.width}

    def _write(self, output: Tensor, meta: dict) -> Image.Image:
        output = output[:, : meta["height"], : meta["width"]]
        pixels = ((output + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
        return Image.fromarray(pixels.numpy())


def toy_tokenizer(**config) -> ToyTokenizer:
    """A toy in evaluation mode whose codebook has been started on noise."""
    torch.manual_seed(0)
    model = ToyTokenizer(ToyConfig(**config))
    model.quantizer.initialize(model.encoder(torch.rand(4, 3, 64, 64) * 2 - 1))
    return model.eval()


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
