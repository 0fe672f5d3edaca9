"""A patch discriminator against the decoder: hinge loss, adaptive weight, optional LeCAM.

Sources: Isola et al. 2017 (PatchGAN), arXiv 1611.07004; Esser et al. 2021 (VQGAN), arXiv
2012.09841, section 3.1 and equation 7; Tseng et al. 2021 (LeCAM), arXiv 2104.03310, equation 4.
Departures: group normalisation instead of batch normalisation, so that nothing depends on the
batch or has to be synchronised between processes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqtok.errors import ConfigError

HIGHEST_WEIGHT = 1e4  # the published clamp of the adaptive weight


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


class AdversarialLoss(nn.Module):
    """The discriminator, its optimizer and the two sides of the game.

    The trainer calls `generator` for the model's part and `discriminator_backward` for the
    discriminator's, in the same step, and `step` once per optimizer step.

    Args:
        start_step: optimizer steps before the game begins.
        lr: of the discriminator (AdamW, betas 0.5 and 0.9).
        adaptive: scale the model's part so that its gradient at the decoder's last layer is as
            long as the reconstruction's (equation 7); False uses the recipe's weight as it is.
        lecam: weight of the LeCAM regulariser; 0 is off.
    """

    LECAM_DECAY = 0.999

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
        super().__init__()
        if start_step < 0 or lr <= 0 or lecam < 0:
            raise ConfigError(
                "the adversarial loss wants start_step >= 0, lr > 0 and lecam >= 0; "
                f"got start_step={start_step}, lr={lr}, lecam={lecam}."
            )
        self.start_step, self.adaptive, self.lecam, self.lr = start_step, adaptive, lecam, lr
        self.discriminator = PatchDiscriminator(channels, width, layers)
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))
        self._optimizer: torch.optim.Optimizer | None = None

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

    def generator(self, reconstruction: Tensor) -> Tensor:
        """Scalar float32: low where the discriminator takes the reconstruction for real."""
        self.discriminator.requires_grad_(False)
        return -self.discriminator(reconstruction).float().mean()

    def adaptive_weight(self, plain: Tensor, game: Tensor, last_layer: Tensor) -> Tensor:
        """Equation 7: the ratio of the two gradients' lengths at the decoder's last layer."""
        if not self.adaptive:
            return plain.new_ones(())
        ours = torch.autograd.grad(plain, last_layer, retain_graph=True)[0]
        theirs = torch.autograd.grad(game, last_layer, retain_graph=True)[0]
        return (ours.norm() / (theirs.norm() + 1e-4)).clamp(0.0, HIGHEST_WEIGHT).detach()

    def discriminator_loss(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Hinge and LeCAM terms, scalars float32; `loss` is their weighted sum."""
        self.discriminator.requires_grad_(True)
        real = self.discriminator(target.detach()).float()
        fake = self.discriminator(reconstruction.detach()).float()
        hinge = 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
        terms = {"discriminator": hinge, "loss": hinge}
        if self.lecam:
            lecam = (
                F.relu(real - self.fake_mean).square().mean()
                + F.relu(self.real_mean - fake).square().mean()
            )
            terms |= {"lecam": lecam, "loss": hinge + self.lecam * lecam}
            with torch.no_grad():
                self.real_mean.lerp_(real.mean(), 1 - self.LECAM_DECAY)
                self.fake_mean.lerp_(fake.mean(), 1 - self.LECAM_DECAY)
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
