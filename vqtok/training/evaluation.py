"""What a tokenizer costs and what it keeps: rate, distortion and codebook health.

    items ──inputs──▶ encode ──▶ codes ──▶ decode ──measure──▶ one number an item ──▶ means
                                    └──▶ bits, usage, perplexity

`Evaluation` is the loop; what is measured depends on what the tokenizer takes. Several processes
share the items, and each has the whole report afterwards.
"""

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from vqtok.devices import exact_numerics
from vqtok.errors import ConfigError
from vqtok.metrics.image import capped_psnr, mse, ssim
from vqtok.models.reconstruction import crop
from vqtok.training.callbacks import ReconstructionGrid
from vqtok.training.code_window import CodeWindow
from vqtok.training.image_data import to_pixel_values

_COUNT = " count"  # after a name: how many items had a number


class Evaluation(ABC):
    """Items kept for reports on a model.

    Args:
        items: tensors without a batch axis; one tensor [N, ...] if all have one size.
        batch_size: how many go through the model together.

    Attributes:
        noun: what an item is called in the report.
        unit: what a rate is per.
        shown: the numbers that a progress bar has room for.
    """

    noun: ClassVar[str]
    unit: ClassVar[str]
    shown: ClassVar[tuple[str, ...]] = ()

    def __init__(self, items: Sequence[Tensor], batch_size: int = 1):
        self.items, self.batch_size = items, batch_size

    @abstractmethod
    def measure(self, model: nn.Module, codes: Tensor, batch: Tensor) -> dict[str, Tensor]:
        """Numbers of each item, [B], the same names for every batch; NaN is left out of means."""

    @abstractmethod
    def units(self, batch: Tensor) -> float:
        """How many of `unit` the batch has."""

    def inputs(self, batch: Tensor) -> Tensor:
        """Items [B, ...] as the model's encode takes them."""
        return batch

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """The means of what was measured, as they are reported."""
        return means

    def examples(
        self,
        reconstruct: Callable[[Tensor], Tensor],
        report_image: Callable[[str, Tensor, int], None],
    ) -> TrainerCallback | None:
        """What shows some items and their reconstructions after a report; None: nothing does.

        Args:
            reconstruct: inputs [B, ...] to outputs.
            report_image: takes a name, a picture uint8 [3, h, w] and the step.
        """
        return None

    def batches(self, rank: int, world_size: int) -> Iterator[Tensor]:
        """A process's items, every world_size-th."""
        for start in range(rank, len(self.items), world_size * self.batch_size):
            stop = min(len(self.items), start + world_size * self.batch_size)
            yield torch.stack([self.items[i] for i in range(start, stop, world_size)])

    @torch.no_grad()
    def report(self, model: nn.Module, rank: int = 0, world_size: int = 1) -> dict[str, float]:
        """Every item through its codes and back, as a reader of stored codes would have it.

        Args:
            model: a tokenizer that takes `inputs`.
            rank: of this process among `world_size`.

        Returns:
            the number of items, the means, the rate (codes of padding included) and each
            codebook's health; over all processes, the same on each.
        """
        if len(self.items) < world_size:
            raise ConfigError(
                f"evaluation wants an item a process; got {len(self.items)} {self.noun}."
            )
        device = next(chain(model.parameters(), model.buffers())).device
        was_training = model.training
        model.eval()
        window = CodeWindow(model.codebook_sizes, device)
        sums: dict[str, Tensor | float] = defaultdict(float)
        for batch in self.batches(rank, world_size):
            batch = batch.to(device)
            with exact_numerics():
                codes = model.encode(self.inputs(batch))
                measured = self.measure(model, codes, batch)
            window.add(codes)
            for name, values in measured.items():
                sums[name] += values.double().nansum()
                sums[f"{name}{_COUNT}"] += (~values.isnan()).sum()
            sums["items"] += len(batch)
            sums["bits"] += sum(model.code_bits) * codes[:, 0].numel()
            sums["units"] += self.units(batch)
        model.train(was_training)
        totals = _over_processes(sums, device, world_size)
        count, bits, units = (totals.pop(name) for name in ("items", "bits", "units"))
        counted = [name for name in totals if not name.endswith(_COUNT)]
        means = {n: totals[n] / m if (m := totals[n + _COUNT]) else math.nan for n in counted}
        means = self.summary(means)
        rate = {f"bits_per_{self.unit}": bits / units}
        return {self.noun: int(count)} | means | rate | window.drain()


class ImageEvaluation(Evaluation):
    """Images uint8 [N, 3, H, W], measured on uint8 pixels.

    `psnr` is the mean of the images' `capped_psnr` in dB, `mse` of the grey levels 0 to 255.
    """

    noun, unit, shown = "images", "pixel", ("psnr", "ssim")

    def inputs(self, batch: Tensor) -> Tensor:
        return to_pixel_values(batch)

    def units(self, batch: Tensor) -> float:
        return len(batch) * batch.shape[-2] * batch.shape[-1]

    def examples(self, reconstruct, report_image) -> TrainerCallback:
        return ReconstructionGrid(self.items[:4], reconstruct, report_image)

    def measure(self, model: nn.Module, codes: Tensor, batch: Tensor) -> dict[str, Tensor]:
        ours = crop(model.decode(codes), batch.shape)
        error = mse(ours, batch)
        return {"psnr": capped_psnr(error), "ssim": ssim(ours, batch), "mse": error}


class TextEvaluation(Evaluation):
    """Windows of bytes int64 [N, L]: `byte_accuracy` is the share of bytes that come back."""

    noun, unit, shown = "windows", "byte", ("byte_accuracy",)

    def units(self, batch: Tensor) -> float:
        return batch.numel()

    def measure(self, model: nn.Module, codes: Tensor, batch: Tensor) -> dict[str, Tensor]:
        ours = model.decode(codes)[:, : batch.shape[1]]
        return {"byte_accuracy": (ours == batch).double().mean(1)}


class VectorEvaluation(Evaluation):
    """Vectors float32 [N, D].

    `squared_error` is the mean squared distance, `relative_error` that over the variance (the
    mean vector alone would give 1), `cosine` the mean cosine to the reconstruction.
    """

    noun, unit, shown = "vectors", "vector", ("relative_error", "cosine")

    def __init__(self, items: Tensor, batch_size: int = 1):
        super().__init__(items, batch_size)
        self._variance = float((items.double() - items.double().mean(0)).square().sum(1).mean())

    def units(self, batch: Tensor) -> float:
        return len(batch)

    def measure(self, model: nn.Module, codes: Tensor, batch: Tensor) -> dict[str, Tensor]:
        ours = model.decode(codes)
        return {
            "squared_error": (ours.double() - batch.double()).square().sum(1),
            "cosine": nn.functional.cosine_similarity(ours, batch),
        }

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        error = means["squared_error"]
        # as vqtok.metrics.vectors.relative_error: vectors that are all alike have no variance
        relative = error / self._variance if self._variance else float(error > 0)
        return {"squared_error": error, "relative_error": relative, "cosine": means["cosine"]}


def _over_processes(
    sums: dict[str, Tensor | float], device: torch.device, world_size: int
) -> dict[str, float]:
    """The sums of all processes, on each; the names are the same on all of them."""
    names = sorted(sums)
    values = [torch.as_tensor(sums[name], dtype=torch.float64, device=device) for name in names]
    totals = torch.stack(values)
    if world_size > 1:
        torch.distributed.all_reduce(totals)
    totals = dict(zip(names, totals.tolist(), strict=True))
    return {name: totals[name] for name in sums}
