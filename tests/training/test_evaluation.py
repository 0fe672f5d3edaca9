import pytest
import torch

from tests.training.toy import make_toy
from vqtok.errors import ConfigError
from vqtok.training.evaluation import evaluate_images


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_report_does_not_depend_on_how_the_images_were_batched(batch_size):
    images = torch.randint(0, 256, (5, 3, 30, 34), dtype=torch.uint8)

    report, whole = (evaluate_images(make_toy(), images, size) for size in (batch_size, 8))

    assert report.flat() == pytest.approx(whole.flat())
    assert report.images == 5
    # 4 bits for each of 8 x 9 patches begun, over 30 x 34 pixels
    assert report.bits_per_pixel == pytest.approx(4 * 8 * 9 / (30 * 34))


def test_the_numbers_agree_with_another_implementation():
    from skimage.metrics import peak_signal_noise_ratio

    model, images = make_toy(), torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)

    report = evaluate_images(model, images)

    pixels = model.decode(model.encode(images / 127.5 - 1)).detach()
    ours = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    pairs = zip(images.numpy(), ours, strict=True)
    wanted = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in pairs]
    assert report.psnr == pytest.approx(sum(wanted) / 3)
    codes = model.encode(images / 127.5 - 1)
    assert report.codebooks["codebook0_usage"] == pytest.approx(codes.unique().numel() / 16)


class Lossless(torch.nn.Module):
    """One code a grey pixel: keeps grey images as they are."""

    codebook_sizes, code_bits = (256,), (8.0,)

    def __init__(self):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(()))

    def encode(self, pixel_values):
        return ((pixel_values[:, :1] + 1) * 127.5).round().long()

    def decode(self, codes):
        return codes.expand(-1, 3, -1, -1) / 127.5 - 1


def test_a_perfect_reconstruction_counts_as_108_decibels():
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8).expand(-1, 3, -1, -1)

    report = evaluate_images(Lossless(), images)

    assert (report.mse, report.bits_per_pixel) == (0, 8)
    assert report.psnr == pytest.approx(108.1308, abs=1e-4)
    assert report.ssim == pytest.approx(1)


def test_a_model_in_training_is_in_training_afterwards_and_unchanged():
    model = make_toy().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    evaluate_images(model, torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))

    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_fewer_images_than_processes_are_refused():
    with pytest.raises(ConfigError, match="an image a process"):
        evaluate_images(make_toy(), torch.zeros(1, 3, 16, 16, dtype=torch.uint8), world_size=2)
