"""A tokenizer of a few hundred weights with the face of the real ones."""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

import vqtok.training
from vqtok.models.outputs import Rate
from vqtok.models.reconstruction import crop
from vqtok.models.vim_vq.image_processing_vim_vq import VimVQImageProcessor
from vqtok.quantizers.vq import VectorQuantizer


class ToyConfig(PreTrainedConfig):
    model_type = "vqtok_toy"


class ToyOutput(dict):
    """Attribute access and nothing else: what VQTrainer may rely on."""

    __getattr__ = dict.__getitem__


class ToyEncoder(nn.Conv2d):
    """[B, 3, H, W] to latents [B, h, w, 4], a position for every 4 x 4 pixels begun."""

    def __init__(self):
        super().__init__(3, 4, 4, stride=4)

    def forward(self, pixel_values):
        height, width = pixel_values.shape[-2:]
        whole = nn.functional.pad(pixel_values, (0, -width % 4, 0, -height % 4), mode="replicate")
        return super().forward(whole).movedim(1, -1)


class ToyTokenizer(PreTrainedModel):
    config_class = ToyConfig
    main_input_name = "pixel_values"

    def __init__(self, config, **options):
        super().__init__(config)
        self.encoder = ToyEncoder()
        self.quantizer = VectorQuantizer(dim=4, codebook_size=16, **options)
        self.decoder = nn.Sequential(nn.Conv2d(4, 16, 1), nn.GELU(), nn.Conv2d(16, 48, 1))
        self.codebook_sizes, self.hop, self.rate = (16,), 4, Rate(4 / 16, "pixel")
        self.code_bits, self.processor = (4.0,), VimVQImageProcessor()
        self.post_init()

    def _init_weights(self, module):
        """Keep what the modules drew."""

    def encode(self, pixel_values):
        latents = self.encoder(pixel_values)
        return self.quantizer.encode(latents).movedim(-1, 1)

    def decode(self, codes):
        return self._paint(self.quantizer.decode(codes.movedim(1, -1)))

    def _paint(self, latents):
        return nn.functional.pixel_shuffle(self.decoder(latents.movedim(-1, 1)), 4)

    def forward(self, pixel_values):
        latents = self.encoder(pixel_values)
        out = self.quantizer(latents)
        return ToyOutput(
            reconstruction=crop(self._paint(out.quantized), pixel_values.shape),
            latents=latents,
            codes=out.codes.movedim(-1, 1),
            losses={"quantizer": out.loss, **out.losses},
        )


def make_toy(seed=0, **options):
    """The same weights every time; `options` go to the quantizer."""
    torch.manual_seed(seed)
    return ToyTokenizer(ToyConfig(), **options)


def toy_tree(output, **training):
    """A recipe over the sample photos, as a tree; the model is the caller's affair."""
    settings = {
        "steps": 12, "batch_size": 4, "log_steps": 1, "save_steps": 6, "warmup_steps": 2,
        "ema_decay": 0.9, "init_batches": 4, "device": "cpu",
    }  # fmt: skip
    samples = str(Path(vqtok.training.__file__).parents[1] / "samples")
    return {
        "model": {"preset": "nano"},
        "data": {"source": samples, "crop": 32, "limit": 3},
        "losses": {"l1": 1.0, "psnr": 0.1},
        "training": settings | training,
        "evaluation": {"source": samples, "size": 64, "limit": 3},
        "output": str(output),
    }
