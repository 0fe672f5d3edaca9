"""A discriminator against the decoder: hinge loss, adaptive weight, LeCAM, feature matching.

`Adversary` is the game; `AdversarialLoss` plays it on images, with patches as the thing judged.
For sound see `vqtok.training.audio_discriminators`.

Sources: Isola et al. 2017 (PatchGAN), arXiv 1611.07004; Esser et al. 2021 (VQGAN), arXiv
2012.09841, section 3.1 and equation 7; Tseng et al. 2021 (LeCAM), arXiv 2104.03310, equation 4.
Departures: group normalisation instead of batch normalisation, so that nothing depends on the
batch or has to be synchronised between processes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqtok.errors import ConfigError

HIGHEST_WEIGHT = 1e4  # the published clamp of the adaptive weight
SMALLEST_FEATURE = 1e-8  # keeps features that are all zero from dividing by zero


class Judgement(NamedTuple):
    """What a discriminator says: maps of logits (high is real), and inner features."""

    logits: list[Tensor]
    features: list[Tensor]


class PatchDiscriminator(nn.Module):
    """Images [B, C, H, W] to a map of logits [B, 1, h, w]: is the patch around here real?"""

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3):
        super().__init__()
        if width % 8 or width < 8 or layers < 1:
            raise ConfigError(
                "the discriminator wants width a multiple of 8 and layers >= 1; "
                f"got width={width}, layers={layers}."
            )
        blocks = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        here = width
        for level in range(1, layers + 1):
            there = width * min(2**level, 8)
            stride = 2 if level < layers else 1
            blocks += [
                nn.Conv2d(here, there, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, there),
                nn.LeakyReLU(0.2),
            ]
            here = there
        blocks.append(nn.Conv2d(here, 1, 4, stride=1, padding=1))
        self.net = nn.Sequential(*blocks)
        self.smallest_side = 4 * 2 ** (layers - 1) * 2

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < self.smallest_side:
            raise ConfigError(
                f"this discriminator wants images of at least {self.smallest_side} pixels a side; "
                f"got {list(images.shape)}: use larger crops or fewer layers."
            )
        return self.net(images)


class Adversary(nn.Module):
    """A discriminator, its optimizer and the two sides of the game; subclasses say what it judges.

    The trainer calls `generator_terms` for the model's part and `discriminator_loss` for the
    discriminator's, in the same step, and `step` once per optimizer step.

    Args:
        discriminator: what `judge` asks.
        start_step: optimizer steps before the game begins.
        lr: of the discriminator (AdamW, betas 0.5 and 0.9).
        adaptive: scale the model's part so that its gradient at the decoder's last layer is as
            long as the reconstruction's (equation 7); False uses the recipe's weight as it is.
        lecam: weight of the LeCAM regulariser; 0 is off.
        feature_matching: weight of the distance of the discriminator's features, in units of the
            hinge term's weight; 0 is off.
    """

    LECAM_DECAY = 0.999

    def __init__(
        self,
        discriminator: nn.Module,
        start_step: int,
        lr: float,
        adaptive: bool,
        lecam: float,
        feature_matching: float = 0.0,
    ):
        super().__init__()
        if start_step < 0 or lr <= 0 or lecam < 0 or feature_matching < 0:
            raise ConfigError(
                "an adversarial loss wants start_step >= 0, lr > 0, lecam >= 0 and "
                f"feature_matching >= 0; got start_step={start_step}, lr={lr}, lecam={lecam}, "
                f"feature_matching={feature_matching}."
            )
        self.start_step, self.adaptive, self.lecam, self.lr = start_step, adaptive, lecam, lr
        # the model's terms, with their weights relative to the recipe's
        self.term_weights = {"adversarial": 1.0}
        if feature_matching:
            self.term_weights["feature_matching"] = float(feature_matching)
        self.discriminator = discriminator
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))
        self._optimizer: torch.optim.Optimizer | None = None

    def judge(self, samples: Tensor) -> Judgement:
        """Samples of the model's output to maps of logits, and the features that led there."""
        raise NotImplementedError(f"{type(self).__name__} must define judge.")

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        # made late, so that it holds the parameters where the trainer has moved them
        if self._optimizer is None:
            self._optimizer = torch.optim.AdamW(
                self.discriminator.parameters(), lr=self.lr, betas=(0.5, 0.9), weight_decay=0.0
            )
        return self._optimizer

    def active(self, step: int) -> bool:
        return step >= self.start_step

    def generator_terms(self, reconstruction: Tensor, target: Tensor | None) -> dict[str, Tensor]:
        """The terms of `term_weights`, unweighted float32 scalars with the model's graph."""
        self.discriminator.requires_grad_(False)
        ours = self.judge(reconstruction)
        terms = {"adversarial": -_mean_of([logits.float().mean() for logits in ours.logits])}
        if "feature_matching" in self.term_weights:
            with torch.no_grad():
                theirs = self.judge(target)
            terms["feature_matching"] = feature_distance(ours.features, theirs.features)
        return terms

    def generator(self, reconstruction: Tensor, target: Tensor | None = None) -> Tensor:
        """Weighted sum of the model's terms: low where the reconstruction is taken for real.

        Args:
            target: needed with feature matching only.
        """
        if target is None and "feature_matching" in self.term_weights:
            raise ConfigError("feature matching compares with the target: give it to generator.")
        return self.weighted(self.generator_terms(reconstruction, target))

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        return sum(self.term_weights[name] * value for name, value in terms.items())

    def adaptive_weight(self, plain: Tensor, game: Tensor, last_layer: Tensor | None) -> Tensor:
        """Equation 7: the ratio of the two gradients' lengths at the decoder's last layer."""
        if not self.adaptive:
            return plain.new_ones(())
        ours = torch.autograd.grad(plain, last_layer, retain_graph=True)[0]
        theirs = torch.autograd.grad(game, last_layer, retain_graph=True)[0]
        return (ours.norm() / (theirs.norm() + 1e-4)).clamp(0.0, HIGHEST_WEIGHT).detach()

    def discriminator_loss(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Hinge and LeCAM terms, means over the maps, float32; `loss` is their weighted sum."""
        self.discriminator.requires_grad_(True)
        real = [logits.float() for logits in self.judge(target.detach()).logits]
        fake = [logits.float() for logits in self.judge(reconstruction.detach()).logits]
        hinge = 0.5 * (
            _mean_of([F.relu(1.0 - logits).mean() for logits in real])
            + _mean_of([F.relu(1.0 + logits).mean() for logits in fake])
        )
        terms = {"discriminator": hinge, "loss": hinge}
        if self.lecam:
            lecam = _mean_of(
                [F.relu(logits - self.fake_mean).square().mean() for logits in real]
            ) + _mean_of([F.relu(self.real_mean - logits).square().mean() for logits in fake])
            terms |= {"lecam": lecam, "loss": hinge + self.lecam * lecam}
            with torch.no_grad():
                for running, maps in ((self.real_mean, real), (self.fake_mean, fake)):
                    now = _mean_of([logits.mean() for logits in maps])
                    running.lerp_(now, 1 - self.LECAM_DECAY)
        return terms

    def step(self) -> None:
        """One optimizer step of the discriminator on the gradients gathered so far."""
        parameters = [p for p in self.discriminator.parameters() if p.grad is not None]
        if not parameters:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            world = torch.distributed.get_world_size()
            for tensor in [p.grad for p in parameters] + [self.real_mean, self.fake_mean]:
                torch.distributed.all_reduce(tensor)
                tensor.div_(world)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def training_state(self) -> dict:
        """Weights, LeCAM means and optimizer moments: all that a resumed run needs."""
        return {"module": self.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: dict) -> None:
        self.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


class AdversarialLoss(Adversary):
    """The patch discriminator as an adversary of images [B, C, H, W]; see `Adversary`."""

    def __init__(
        self,
        start_step: int = 0,
        lr: float = 1e-4,
        adaptive: bool = True,
        lecam: float = 0.0,
        width: int = 64,
        layers: int = 3,
        channels: int = 3,
    ):
        discriminator = PatchDiscriminator(channels, width, layers)
        super().__init__(discriminator, start_step, lr, adaptive, lecam)

    def judge(self, samples: Tensor) -> Judgement:
        return Judgement([self.discriminator(samples)], [])


def feature_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Mean over the features of mean |difference| / mean |theirs|: a float32 scalar.

    Source: Défossez et al. 2022 (EnCodec), arXiv 2210.13438, equation 2.
    """
    return _mean_of(
        [
            (a.float() - b.float()).abs().mean() / (b.float().abs().mean() + SMALLEST_FEATURE)
            for a, b in zip(ours, theirs, strict=True)
        ]
    )


def _mean_of(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values)
