"""What a tokenizer costs and what it keeps: rate, distortion and codebook health on images."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from vqtok.devices import exact_numerics
from vqtok.errors import ConfigError
from vqtok.metrics.image import capped_psnr, mse, ssim
from vqtok.training.code_window import CodeWindow
from vqtok.training.image_data import to_pixel_values


@dataclass
class ImageReport:
    """Means over `images` images, measured on uint8 pixels.

    Attributes:
        psnr: dB, the mean of the images' `capped_psnr`.
        mse: of the grey levels 0 to 255, over all pixels.
        bits_per_pixel: the tokenizer's `code_bits` for every code, padding included.
        codebooks: usage, perplexity and entropy of each level, by name.
    """

    images: int
    psnr: float
    ssim: float
    mse: float
    bits_per_pixel: float
    codebooks: dict[str, float]

    def flat(self) -> dict[str, float]:
        report = asdict(self)
        return report | report.pop("codebooks")


@torch.no_grad()
def evaluate_images(
    model: nn.Module, images: Tensor, batch_size: int = 8, rank: int = 0, world_size: int = 1
) -> ImageReport:
    """Encode and decode every image through its codes, as a reader of stored codes would.

    Args:
        model: an image tokenizer.
        images: uint8 [N, 3, H, W], N >= world_size; each process takes every world_size-th.

    Returns:
        the report over all processes, the same on each.
    """
    if len(images) < world_size:
        raise ConfigError(f"evaluation wants an image a process; got {len(images)} images.")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    window = CodeWindow(model.codebook_sizes, device)
    sums = torch.zeros(5, dtype=torch.float64, device=device)  # images, psnr, ssim, mse, bits
    for batch in images[rank::world_size].split(batch_size):
        with exact_numerics():
            codes = model.encode(to_pixel_values(batch).to(device))
            ours = reconstruct_codes(model, codes, batch.shape[-2:])
        window.add(codes)
        theirs = batch.to(device)
        error = mse(ours, theirs)
        bits = sum(model.code_bits) * codes[:, 0].numel()
        totals = [len(batch), capped_psnr(error).sum(), ssim(ours, theirs).sum(), error.sum(), bits]
        sums += torch.stack([torch.as_tensor(x, dtype=sums.dtype, device=device) for x in totals])
    model.train(was_training)
    if world_size > 1:
        torch.distributed.all_reduce(sums)
    count, *means = sums.tolist()
    means = [total / count for total in means]
    bits_per_pixel = means.pop() / (images.shape[-1] * images.shape[-2])
    return ImageReport(int(count), *means, bits_per_pixel, window.drain())


def reconstruct_codes(model: nn.Module, codes: Tensor, size: tuple[int, int]) -> Tensor:
    """Codes to float [B, 3, *size]; the model pads at the bottom and right, cut off here."""
    return model.decode(codes)[..., : size[0], : size[1]]
