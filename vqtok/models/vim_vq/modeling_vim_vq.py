"""VIM-VQ: an image tokenizer of Vision-Mamba blocks around a vector quantizer.

    pixels [B, 3, H, W]                                              pixels [B, 3, H, W]
       │ pad to whole patches                                           ▲ crop
       ├── patch embedding ──┐                     ┌── patch to pixels ─┤
       └── conv stem ────────+ positions           │   pixel refiner ───┘
                             │                     │
                    Mamba blocks, rows and      Mamba blocks, rows and
                    columns in turn             columns in turn
                             │                     ▲ positions
                          linear D ── quantizer ── linear
                                         │ ▲
                                      codes [B, Q, h, w]

| preset | width | blocks   | parameters without codebook |
|--------|-------|----------|-----------------------------|
| nano   | 96    | 2 + 2    | 0.4 M                       |
| tiny   | 192   | 4 + 6    | 2.9 M                       |
| small  | 384   | 8 + 12   | 19 M                        |
| base   | 768   | 12 + 16  | 104 M                       |

A fresh model is a cosine transform of every patch: with its codebook started by k-means it is
already a patch quantizer, and training adds context. The scans cost the same per token at any
size. Not good at: text and faces of a few pixels at 8-pixel patches, and speed below about 256
tokens, where a ViT's attention is still cheap.

Not to be confused with the paper "ViM-VQ" (arXiv 2503.09509), which compresses the weights of
Visual Mamba networks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vqtok.errors import FormatError, ShapeError
from vqtok.models.base import VQTokenizerModel
from vqtok.models.outputs import Rate, VQTokenizerOutput
from vqtok.models.vim_vq.configuration_vim_vq import VimVQConfig
from vqtok.models.vim_vq.image_processing_vim_vq import VimVQImageProcessor
from vqtok.nn.conv import ConvStem, PixelRefiner
from vqtok.nn.patches import PatchEmbedding, PatchToPixels
from vqtok.nn.positions import RelativePositions
from vqtok.nn.vision_mamba import BidirectionalMambaBlock
from vqtok.quantizers import build_quantizer


def mamba_blocks(depth: int, width: int, state_size: int) -> nn.Sequential:
    """Blocks that scan rows and columns in turn."""
    return nn.Sequential(
        *(
            BidirectionalMambaBlock(width, state_size, scan="columns" if i % 2 else "rows")
            for i in range(depth)
        )
    )


@torch.no_grad()
def keep_first(linear: nn.Linear) -> None:
    """Starts a linear map as the identity on the first channels, zero on the rest."""
    linear.weight.copy_(torch.eye(*linear.weight.shape, device=linear.weight.device))
    linear.bias.zero_()


class VimVQEncoder(nn.Module):
    """Pixels [B, 3, H, W] in [-1, 1] to latents [B, h, w, D]."""

    def __init__(self, config: VimVQConfig):
        super().__init__()
        self.patch_pixels = config.patch_pixels
        self.embedding = PatchEmbedding(config.patch_pixels, config.width)
        self.stem = ConvStem(config.patch_pixels, config.width)
        self.positions = RelativePositions(config.width)
        self.blocks = mamba_blocks(config.encoder_depth, config.width, config.state_size)
        self.to_latent = nn.Linear(config.width, config.latent_dim)

    def reset_parameters(self) -> None:
        keep_first(self.to_latent)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        p = self.patch_pixels
        pixels = F.pad(pixels, (0, -width % p, 0, -height % p), mode="replicate")
        tokens = self.positions(self.embedding(pixels) + self.stem(pixels))
        return self.to_latent(self.blocks(tokens))


class VimVQDecoder(nn.Module):
    """Latents [B, h, w, D] to pixels [B, 3, h p, w p], about [-1, 1]."""

    def __init__(self, config: VimVQConfig):
        super().__init__()
        self.from_latent = nn.Linear(config.latent_dim, config.width)
        self.positions = RelativePositions(config.width)
        self.blocks = mamba_blocks(config.decoder_depth, config.width, config.state_size)
        self.to_pixels = PatchToPixels(config.patch_pixels, config.width)
        self.refiner = PixelRefiner(config.patch_pixels, config.width, config.refiner_channels)

    def reset_parameters(self) -> None:
        keep_first(self.from_latent)

    def forward(self, latents: Tensor) -> Tensor:
        tokens = self.blocks(self.positions(self.from_latent(latents)))
        return self.to_pixels(tokens) + self.refiner(tokens)


class VimVQModel(VQTokenizerModel):
    """Images to codes and back; see the module's text for the picture.

    Codes are [B, Q, h, w] with one position per patch; height and width are free.
    """

    config: VimVQConfig
    config_class = VimVQConfig
    modality = "image"
    processor_class = VimVQImageProcessor

    def __init__(self, config: VimVQConfig):
        super().__init__(config)
        config.validate()  # overrides in from_pretrained skip the check
        self.encoder = VimVQEncoder(config)
        self.quantizer = build_quantizer(dim=config.latent_dim, **config.quantizer_config)
        self.decoder = VimVQDecoder(config)
        self.post_init()

    @property
    def rate(self) -> Rate:
        return Rate(bits=sum(self.code_bits) / self.config.patch_pixels**2, per="pixel")

    @property
    def hop(self) -> int:
        return self.config.patch_pixels

    def hidden_layers(self) -> Sequence[nn.Module]:
        """The blocks of the encoder, then those of the decoder."""
        return [*self.encoder.blocks, *self.decoder.blocks]

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        return self.encoder.embedding.proj

    def encode(self, pixel_values: Tensor, num_codebooks: int | None = None) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to codes [B, Q, ceil(H / p), ceil(W / p)] int64."""
        return super().encode(pixel_values, num_codebooks)

    def forward(
        self,
        pixel_values: Tensor,
        mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> VQTokenizerOutput | tuple:
        """Pixels [B, 3, H, W] in [-1, 1] to codes, reconstruction and losses.

        Args:
            pixel_values: float [B, 3, H, W].
            mask: [B, h, w] bool, True where a patch counts in losses and statistics.
            output_hidden_states: also give the tokens after every block, [B, h, w, width].
            return_dict: False gives a tuple.
        """
        return super().forward(pixel_values, mask, output_hidden_states, return_dict)

    def _read(self, item: Any) -> tuple[Tensor, dict[str, Any]]:
        return self.processor.read(item)

    def _write(self, output: Tensor, meta: dict[str, Any]) -> Image.Image:
        whole = tuple(output.shape[-2:])
        if not meta:  # codes that a prior made: the picture ends with its last patches
            return self.processor.write(output)
        size = tuple(meta.get(name) for name in ("height", "width"))
        if not all(
            isinstance(side, int) and room - self.hop < side <= room
            for side, room in zip(size, whole, strict=True)
        ):
            raise FormatError(
                f"the codes are of an image of {whole[0]} x {whole[1]} pixels, less at most "
                f"{self.hop - 1} a side; meta says height and width are {size[0]}, {size[1]}."
            )
        return self.processor.write(output[:, : size[0], : size[1]])

    def _check_inputs(self, inputs: Tensor) -> None:
        super()._check_inputs(inputs)
        if inputs.shape[1] != 3:
            raise ShapeError(
                f"VimVQModel wants pixels of 3 colours, [B, 3, H, W]; got {list(inputs.shape)}."
            )

    def canary_inputs(self) -> Tensor:
        """Integer ramps and a checkerboard, [4, 3, 64, 64]: no library draws them differently."""
        y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        planes = [3 * x + y, x * y, (x // 5 + y // 7) % 2 * 200, (x - 32) ** 2 + (y - 20) ** 2]
        colours = torch.tensor([1, 3, 5])[:, None, None]
        images = torch.stack([plane * colours % 256 for plane in planes])
        return images.float() / 127.5 - 1
