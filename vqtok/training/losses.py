"""Reconstruction losses as plug-ins: a name in a recipe, a weight, and options.

    losses: {l1: 0.2, l2: 1.0, perceptual: {weight: 0.1, vgg_weights: vgg16.safetensors}}

A plug-in is a module called with (reconstruction, target), both float [B, C, ...] in [-1, 1],
that returns a float32 scalar, a mean over the batch. `LOSSES` maps names to builders; put your
own function there to use it in a recipe. Those of sound are in `audio_losses`. One adversary may
play (`adversarial` for images, `adversarial_audio`); `balancer: true` makes the weights shares of
the gradient (`vqtok.training.balancer`).
"""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqtok.errors import ConfigError, LoadError
from vqtok.training.adversarial import AdversarialLoss, Adversary
from vqtok.training.audio_discriminators import AudioAdversarialLoss
from vqtok.training.audio_losses import ComplexSTFTLoss, MelLoss, SISDRLoss, STFTLoss
from vqtok.training.balancer import LossBalancer
from vqtok.training.text_losses import BytesLoss

BALANCER = "balancer"  # the one word in a losses section that is no loss
LOWEST_MSE = 1e-6  # -66 dB of the range 2: below one grey level, no reward is left to chase


class L1Loss(nn.Module):
    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return (reconstruction.float() - target.float()).abs().mean()


class L2Loss(nn.Module):
    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return (reconstruction.float() - target.float()).square().mean()


class PSNRLoss(nn.Module):
    """Minus the mean PSNR of the images, in units of 10 dB.

    The mean error of a batch is ruled by its hardest image; the mean of each image's log error is
    the number that is reported. Its gradient is each image's own, divided by its error.

    Source: Chen et al. 2021 (HINet), arXiv 2105.06086, section 3.3. They use dB; the factor of
    ten less keeps the weight comparable with l1's.
    """

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        error = (reconstruction.float() - target.float()).square().flatten(1).mean(1)  # [B]
        # the range of [-1, 1] is 2, so a peak's square is 4
        return (error + LOWEST_MSE).log10().mean() - math.log10(4.0)


class PerceptualLoss(nn.Module):
    """Distance of normalised VGG-16 features, weighted by channel (LPIPS).

    The weights are the user's: `vgg_weights` is torchvision's VGG-16 state dict (only `features.*`
    is read), `lpips_weights` the five channel weightings of LPIPS; without them all channels
    count the same. Both are .safetensors, or .pth read as plain tensors. Nothing is downloaded.

    Source: Zhang et al. 2018, arXiv 1801.03924, section 3, equation 1.
    """

    TAPS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
    WIDTHS = (64, 128, 256, 512, 512)
    # of ImageNet in [-1, 1]
    SHIFT = (-0.030, -0.088, -0.188)
    SCALE = (0.458, 0.448, 0.450)

    def __init__(self, vgg_weights: str | None = None, lpips_weights: str | None = None):
        super().__init__()
        if vgg_weights is None:
            raise ConfigError(
                "the perceptual loss wants VGG-16 weights, and none are shipped: set "
                "losses.perceptual.vgg_weights to a file with torchvision's vgg16 state dict."
            )
        self.features = _load_vgg_features(Path(vgg_weights))
        self.register_buffer("shift", torch.tensor(self.SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(self.SCALE).view(1, 3, 1, 1))
        heads = [torch.full((w,), 1.0 / w) for w in self.WIDTHS]
        if lpips_weights is not None:
            heads = _load_lpips_heads(Path(lpips_weights), self.WIDTHS)
        for level, head in enumerate(heads):
            self.register_buffer(f"head{level}", head.view(1, -1, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """Always in evaluation: the features are a measure, not a part of the model."""
        return super().train(False)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        if reconstruction.shape[1] != 3 or min(reconstruction.shape[2:]) < 16:
            raise ConfigError(
                "the perceptual loss wants RGB images of at least 16 x 16 pixels; "
                f"got {list(reconstruction.shape)}."
            )
        with torch.no_grad():
            wanted = self._normalised(target)
        total = reconstruction.new_zeros((), dtype=torch.float32)
        for level, (ours, theirs) in enumerate(
            zip(self._normalised(reconstruction), wanted, strict=True)
        ):
            head = getattr(self, f"head{level}")
            total = total + ((ours - theirs).square() * head).sum(1).mean()
        return total

    def _normalised(self, images: Tensor) -> list[Tensor]:
        """Unit-length features [B, C, h, w] of each tap."""
        x, taps = (images.float() - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.TAPS:
                features = x.float()
                taps.append(features / (features.norm(dim=1, keepdim=True) + 1e-10))
        return taps


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise LoadError(f"the weights file {path} does not exist.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_vgg_features(path: Path) -> nn.Sequential:
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["D"])[: PerceptualLoss.TAPS[-1] + 1]
    for layer in features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # a tap is kept while the next layer runs
    tensors = _read_tensors(path)
    tensors = {name.removeprefix("features."): value for name, value in tensors.items()}
    wanted = features.state_dict()
    wrong = [n for n, v in wanted.items() if n not in tensors or tensors[n].shape != v.shape]
    if wrong:
        raise LoadError(
            f"{path} should hold torchvision's vgg16 state dict, but lacks {wrong[:3]} in the "
            "right shape: save vgg16(weights=...).state_dict()."
        )
    features.load_state_dict({name: tensors[name].float() for name in wanted})
    return features


def _load_lpips_heads(path: Path, widths: tuple[int, ...]) -> list[Tensor]:
    tensors = _read_tensors(path)
    heads = []
    for level, width in enumerate(widths):
        head = tensors.get(f"lin{level}.model.1.weight")
        if head is None or head.numel() != width:
            raise LoadError(
                f"{path} should hold LPIPS's vgg heads lin0..lin4 (lin{level}.model.1.weight with "
                f"{width} values); it has {sorted(tensors)[:5]}."
            )
        heads.append(head.float().flatten())
    return heads


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "l1": L1Loss,
    "l2": L2Loss,
    "psnr": PSNRLoss,
    "perceptual": PerceptualLoss,
    "adversarial": AdversarialLoss,
    "waveform": L1Loss,  # of samples: the name that audio recipes know it by
    "mel": MelLoss,
    "stft": STFTLoss,
    "complex_stft": ComplexSTFTLoss,
    "si_sdr": SISDRLoss,
    "adversarial_audio": AudioAdversarialLoss,
    "bytes": BytesLoss,
}


class LossTerms(nn.Module):
    """A recipe's reconstruction losses with their weights, the adversary and the balancer.

    The trainer asks for the terms, lets the adversary play, and combines both; `forward` is the
    weighted sum without either.
    """

    def __init__(
        self, terms: Mapping[str, tuple[float, nn.Module]], balancer: LossBalancer | None = None
    ):
        super().__init__()
        plain = {n: t for n, t in terms.items() if not isinstance(t[1], Adversary)}
        if not plain:
            raise ConfigError(
                "training wants at least one loss that compares pixels (l1, l2, psnr, "
                f"perceptual), samples (mel, stft, waveform) or bytes; got {sorted(terms)}."
            )
        self.weights = {name: float(weight) for name, (weight, _) in terms.items()}
        self.plain = nn.ModuleDict({name: module for name, (_, module) in plain.items()})
        adversaries = [n for n, t in terms.items() if isinstance(t[1], Adversary)]
        if len(adversaries) > 1:
            raise ConfigError(f"one adversary at a time; got {adversaries}.")
        self.adversary_name = adversaries[0] if adversaries else None
        self.adversary = terms[adversaries[0]][1] if adversaries else None
        if balancer is not None and self.adversary is not None and self.adversary.adaptive:
            raise ConfigError(
                f"losses.balancer weighs the adversary already: set losses.{self.adversary_name}."
                "adaptive=false, or leave the balancer out."
            )
        self.balancer = balancer

    @property
    def adversary_weight(self) -> float:
        return self.weights[self.adversary_name] if self.adversary_name else 0.0

    def forward(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the plain terms, and each unweighted, detached, by name."""
        terms = self.terms(reconstruction, target)
        return self._sum(terms), {name: value.detach() for name, value in terms.items()}

    def terms(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The plain terms, unweighted, float32 scalars with their graph."""
        return {name: module(reconstruction, target) for name, module in self.plain.items()}

    def combine(
        self,
        terms: Mapping[str, Tensor],
        game: Mapping[str, Tensor],
        reconstruction: Tensor,
        last_layer: nn.Parameter | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to go back from, and what to log, detached.

        Args:
            terms: from `terms`.
            game: the adversary's `generator_terms`; empty while it does not play.
            reconstruction: what both were made from.
            last_layer: where an adaptive adversary's weight is measured.
        """
        named = {name: value.detach() for name, value in {**terms, **game}.items()}
        if self.balancer is not None:
            weights = dict(self.weights)
            if game:
                parts = self.adversary.term_weights
                weights |= {n: self.adversary_weight * part for n, part in parts.items()}
            loss, norms = self.balancer.balance({**terms, **game}, weights, reconstruction)
            return loss, named | {f"{name}_gradient": norm for name, norm in norms.items()}
        loss = self._sum(terms)
        if game:
            part = self.adversary.weighted(game)
            scale = self.adversary.adaptive_weight(loss, part, last_layer)
            named["adaptive_weight"] = scale.detach()
            loss = loss + self.adversary_weight * scale * part
        return loss, named

    def _sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        values = [self.weights[name] * value for name, value in terms.items()]
        return sum(values[1:], start=values[0])


def build_losses(section: Mapping[str, Any]) -> LossTerms:
    """A recipe's `losses` section to modules.

    Args:
        section: name to weight, or name to {weight: ..., option: ...}; and `balancer`, true or
            the options of `LossBalancer`.

    Raises:
        ConfigError: a name, an option or a weight that no loss has, or an option missing.
    """
    terms = {}
    for name, value in section.items():
        if name == BALANCER:
            continue
        if name not in LOSSES:
            known = [*LOSSES, BALANCER]
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"losses are {sorted(known)}; got {name!r}.{hint}")
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
            raise ConfigError(f"losses.{name} wants a weight above 0; got {weight!r}.")
        _check_options(name, options, LOSSES[name], "weight")
        terms[name] = (weight, LOSSES[name](**options))
    return LossTerms(terms, _build_balancer(section.get(BALANCER, False)))


def _build_balancer(value: Any) -> LossBalancer | None:
    if isinstance(value, bool):
        return LossBalancer() if value else None
    if not isinstance(value, Mapping):
        raise ConfigError(f"losses.balancer is true, false or a mapping of options; got {value!r}.")
    _check_options(BALANCER, value, LossBalancer)
    return LossBalancer(**value)


def _check_options(
    name: str, options: Mapping[str, Any], builder: Callable[..., Any], *others: str
) -> None:
    """Refuses an option that the builder does not take, and one that it must have."""
    known = inspect.signature(builder).parameters
    # a module without a constructor shows nn.Module's *args and **kwargs
    known = {k: p for k, p in known.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if unknown := sorted(set(options) - set(known)):
        takes = ", ".join([*others, *known])
        raise ConfigError(f"losses.{name} takes {takes}; got {unknown}.")
    needed = [k for k, p in known.items() if p.default is p.empty and k not in options]
    if needed:
        raise ConfigError(
            f"losses.{name} wants {', '.join(needed)}: set losses.{name}.{needed[0]}."
        )
