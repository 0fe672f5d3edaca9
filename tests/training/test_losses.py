import math

import pytest
import torch
from safetensors.torch import save_file
from torchmetrics.functional.image import lpips as peer

from vqtok.errors import ConfigError, LoadError
from vqtok.training.losses import LossTerms, PerceptualLoss, PSNRLoss, build_losses


def pair(batch=3, side=16):
    return torch.rand(batch, 3, side, side) * 2 - 1, torch.rand(batch, 3, side, side) * 2 - 1


def test_l1_and_l2_are_the_means_of_their_errors():
    ours, theirs = pair()
    losses = build_losses({"l1": 0.5, "l2": {"weight": 2}})

    total, named = losses(ours, theirs)

    l1 = torch.nn.functional.l1_loss(ours, theirs)
    l2 = torch.nn.functional.mse_loss(ours, theirs)
    torch.testing.assert_close(named["l1"], l1)
    torch.testing.assert_close(named["l2"], l2)
    torch.testing.assert_close(total, 0.5 * l1 + 2 * l2)


def test_psnr_is_minus_the_mean_psnr_of_the_images_in_tens_of_decibels():
    ours, theirs = pair()
    ours[0] = theirs[0] + 0.01  # one easy image among hard ones

    loss = PSNRLoss()(ours, theirs)

    error = (ours.double() - theirs.double()).square().flatten(1).mean(1)
    psnr = 10 * torch.log10(4 / error)
    assert loss.item() == pytest.approx(-psnr.mean().item() / 10, abs=3e-3)


def test_psnr_stays_finite_where_the_reconstruction_is_perfect():
    theirs = torch.rand(2, 3, 8, 8)
    ours = theirs.clone().requires_grad_()

    loss = PSNRLoss()(ours, theirs)
    loss.backward()

    assert math.isfinite(loss.item())
    assert ours.grad.isfinite().all()


@pytest.fixture(scope="module")
def vgg():
    """torchmetrics' LPIPS over random features, with the heads that it ships."""
    torch.manual_seed(0)
    return peer._LPIPS(pretrained=True, net="vgg", pnet_rand=True).eval()


def test_perceptual_agrees_with_another_implementation_of_lpips(vgg, tmp_path):
    features = {}
    for part in (vgg.net.slice1, vgg.net.slice2, vgg.net.slice3, vgg.net.slice4, vgg.net.slice5):
        features |= {f"features.{k}": v.contiguous() for k, v in part.state_dict().items()}
    heads = {k: v for k, v in vgg.state_dict().items() if k.startswith("lin")}
    save_file(features, tmp_path / "vgg.safetensors")
    torch.save({k: v for k, v in heads.items() if k[3].isdigit()}, tmp_path / "lpips.pth")
    ours, theirs = pair(2, 32)

    loss = PerceptualLoss(str(tmp_path / "vgg.safetensors"), str(tmp_path / "lpips.pth"))

    torch.testing.assert_close(loss(ours, theirs), vgg(ours, theirs).mean(), rtol=1e-4, atol=1e-6)
    assert loss(ours, ours).item() == 0.0


def test_perceptual_trains_the_reconstruction_and_not_the_features(vgg, tmp_path):
    parts = (vgg.net.slice1, vgg.net.slice2, vgg.net.slice3, vgg.net.slice4, vgg.net.slice5)
    features = {k: v.contiguous() for part in parts for k, v in part.state_dict().items()}
    save_file(features, tmp_path / "vgg.safetensors")
    losses = build_losses({"perceptual": {"vgg_weights": str(tmp_path / "vgg.safetensors")}})
    ours, theirs = pair(1, 16)
    ours.requires_grad_()

    losses.train()(ours, theirs)[0].backward()

    assert ours.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in losses.parameters())
    assert not losses.plain["perceptual"].training


def test_perceptual_without_weights_says_what_to_set():
    with pytest.raises(ConfigError, match=r"losses\.perceptual\.vgg_weights"):
        build_losses({"perceptual": 1.0})


def test_perceptual_refuses_the_weights_of_something_else(tmp_path):
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")

    with pytest.raises(LoadError, match=r"vgg16"):
        PerceptualLoss(str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"ll1": 1.0}, "Did you mean 'l1'"),
        ({"l1": 0}, "above 0"),
        ({"l1": True}, "above 0"),
        ({"l1": {"weight": 1, "power": 2}}, "power"),
        ({"adversarial": 0.1}, "compares pixels"),
        ({"l1": 1, "adversarial": {"lr": -1}}, "lr > 0"),
    ],
)
def test_a_wrong_losses_section_is_refused(section, match):
    with pytest.raises(ConfigError, match=match):
        build_losses(section)


def test_no_loss_at_all_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        LossTerms({})
