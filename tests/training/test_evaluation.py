import math

import pytest
import torch

from tests.training.sounds import tone
from tests.training.toy import make_toy
from vqtok.errors import ConfigError
from vqtok.metrics.audio import si_sdr
from vqtok.metrics.vectors import relative_error, squared_error
from vqtok.training.audio_evaluation import AudioEvaluation, first_levels, middle
from vqtok.training.evaluation import ImageEvaluation, TextEvaluation, VectorEvaluation


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_report_does_not_depend_on_how_the_images_were_batched(batch_size):
    images = torch.randint(0, 256, (5, 3, 30, 34), dtype=torch.uint8)

    report, whole = (ImageEvaluation(images, size).report(make_toy()) for size in (batch_size, 8))

    assert report == pytest.approx(whole)
    assert report["images"] == 5
    # 4 bits for each of 8 x 9 patches begun, over 30 x 34 pixels
    assert report["bits_per_pixel"] == pytest.approx(4 * 8 * 9 / (30 * 34))


def test_the_numbers_agree_with_another_implementation():
    from skimage.metrics import peak_signal_noise_ratio

    model, images = make_toy(), torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)

    report = ImageEvaluation(images).report(model)

    pixels = model.decode(model.encode(images / 127.5 - 1)).detach()
    ours = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    pairs = zip(images.numpy(), ours, strict=True)
    wanted = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in pairs]
    assert report["psnr"] == pytest.approx(sum(wanted) / 3)
    codes = model.encode(images / 127.5 - 1)
    assert report["codebook0_usage"] == pytest.approx(codes.unique().numel() / 16)


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

    report = ImageEvaluation(images).report(Lossless())

    assert (report["mse"], report["bits_per_pixel"]) == (0, 8)
    assert report["psnr"] == pytest.approx(108.1308, abs=1e-4)
    assert report["ssim"] == pytest.approx(1)


def test_a_model_in_training_is_in_training_afterwards_and_unchanged():
    model = make_toy().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    ImageEvaluation(images).report(model)

    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_fewer_images_than_processes_are_refused():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)

    with pytest.raises(ConfigError, match="an item a process"):
        ImageEvaluation(images).report(make_toy(), world_size=2)


class Levels(torch.nn.Module):
    """Sounds as 16-bit samples in two levels of eight bits, a sample a position."""

    codebook_sizes, code_bits = (256, 256), (8.0, 8.0)

    def __init__(self):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(()))

    def encode(self, input_values):
        whole = ((input_values + 1) * 32_767).round().long()
        return torch.cat([whole // 256, whole % 256], 1)

    def decode(self, codes):
        fine = codes[:, 1:] if codes.shape[1] > 1 else torch.full_like(codes, 128)
        return (codes[:, :1] * 256 + fine) / 32_767 - 1


def test_sounds_of_different_lengths_are_measured_with_all_and_with_fewer_levels():
    sounds = [torch.from_numpy(tone(s, hz=300.0 * s))[None] for s in (0.5, 0.8)]

    report = AudioEvaluation(sounds, 16_000).report(Levels())

    model = Levels()
    firsts = [model.decode(model.encode(sound[None])[:, :1]) for sound in sounds]
    wanted = [si_sdr(ours, s[None]).item() for ours, s in zip(firsts, sounds, strict=True)]
    assert report["sounds"] == 2
    assert report["bits_per_second"] == pytest.approx(16 * 16_000)
    assert report["si_sdr"] > 70 > 40 > report["si_sdr_first1"]
    assert report["si_sdr_first1"] == pytest.approx(sum(wanted) / 2, rel=1e-5)
    assert report["mel_distance"] < 0.01 < report["mel_distance_first1"]
    # a tone is no speech: PESQ may find none, and a score that is not there is not a zero
    assert not report.get("stoi", 1.0) < 0.9


def test_the_middle_of_a_sound_is_taken():
    sound = torch.arange(10.0)[None]

    assert middle(sound, 4).tolist() == [[3, 4, 5, 6]]
    assert torch.equal(middle(sound, 20), sound)


@pytest.mark.parametrize(
    ("levels", "firsts"), [(1, []), (2, [1]), (8, [1, 2, 4]), (9, [1, 2, 4, 8])]
)
def test_reports_on_fewer_levels_double_them(levels, firsts):
    assert first_levels(levels) == firsts


class Rounded(torch.nn.Module):
    """Vectors of whole numbers 0 to 9, one digit a code."""

    codebook_sizes, code_bits = (10, 10), (3.0, 4.0)

    def __init__(self):
        super().__init__()
        self.register_buffer("place", torch.zeros(()))

    def encode(self, vectors):
        return vectors.round().long().clamp(0, 9)

    def decode(self, codes):
        return codes.float()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_vectors_are_measured_as_by_the_metrics(batch_size):
    vectors = torch.rand(50, 2) * 9

    report = VectorEvaluation(vectors, batch_size).report(Rounded())

    assert report["vectors"] == 50
    assert report["bits_per_vector"] == 7
    assert report["squared_error"] == pytest.approx(squared_error(vectors, vectors.round()))
    assert report["relative_error"] == pytest.approx(relative_error(vectors, vectors.round()))
    assert 0.9 < report["cosine"] <= 1


class Halves(torch.nn.Module):
    """Bytes without their last bit."""

    codebook_sizes, code_bits = (128,), (7.0,)

    def __init__(self):
        super().__init__()
        self.register_buffer("place", torch.zeros(()))

    def encode(self, byte_values):
        return byte_values[:, None] // 2

    def decode(self, codes):
        # as models do, up to a whole number of patches
        return torch.nn.functional.pad(codes[:, 0] * 2, (0, 3))


def test_the_share_of_bytes_that_come_back():
    data = torch.tensor([[0, 2, 4, 6], [0, 2, 5, 7], [1, 3, 5, 7]])

    report = TextEvaluation(data, 2).report(Halves())

    assert (report["windows"], report["byte_accuracy"]) == (3, 0.5)
    assert report["bits_per_byte"] == 7
    assert report["codebook0_usage"] == 4 / 128


class Scored(TextEvaluation):
    def measure(self, model, codes, batch):
        return {"score": batch[:, 0].float().masked_fill(batch[:, 0] == 0, torch.nan)}


def test_an_item_without_a_number_is_left_out_of_the_mean():
    some, none = torch.tensor([[0], [2], [4]]), torch.tensor([[0], [0]])

    assert Scored(some, 2).report(Halves())["score"] == 3
    assert math.isnan(Scored(none, 2).report(Halves())["score"])
