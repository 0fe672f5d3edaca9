import numpy as np
import pytest
import torch

from tests.models.toy_tokenizer import noise_image
from vqtok.errors import ConfigError, InputError, ShapeError
from vqtok.models.vim_vq.image_processing_vim_vq import VimVQImageProcessor


@pytest.fixture
def processor() -> VimVQImageProcessor:
    return VimVQImageProcessor()


def test_every_byte_comes_back_as_it_was(processor):
    image = noise_image(17, 9)

    tensor, meta = processor.read(image)

    assert tensor.shape == (3, 9, 17)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert meta == {"height": 9, "width": 17}
    assert processor.write(tensor).tobytes() == image.tobytes()


def test_black_is_minus_one_and_white_is_one(processor):
    pixels = np.zeros((1, 2, 3), np.uint8)
    pixels[0, 1] = 255

    tensor, _ = processor.read(pixels)

    assert tensor[:, 0, 0].tolist() == [-1, -1, -1]
    assert tensor[:, 0, 1].tolist() == [1, 1, 1]


def test_writing_rounds_and_clamps(processor):
    values = torch.tensor([-7.0, -1.0, -0.001, 0.0, 0.9999, 1.0, 7.0])
    image = processor.write(values.expand(3, 1, 7))

    assert [image.getpixel((x, 0))[0] for x in range(7)] == [0, 0, 127, 128, 255, 255, 255]


def test_half_precision_outputs_are_written(processor):
    assert processor.write(torch.zeros(3, 2, 4, dtype=torch.bfloat16)).size == (4, 2)


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4), (1, 3, 4, 4)])
def test_only_three_channels_are_written(processor, shape):
    with pytest.raises(ShapeError, match=r"\[3, H, W\]"):
        processor.write(torch.zeros(shape))


def test_a_call_gives_a_batch_as_transformers_models_take_it(processor):
    images = [noise_image(8, 6, seed) for seed in range(2)]

    batch = processor(images)

    assert batch["pixel_values"].shape == (2, 3, 6, 8)
    assert torch.equal(batch["pixel_values"][1], processor.read(images[1])[0])
    assert processor(images[0], return_tensors="np")["pixel_values"].shape == (1, 3, 6, 8)


def test_images_of_two_sizes_make_no_batch(processor):
    images = [noise_image(8, 6), noise_image(6, 8)]

    with pytest.raises(InputError, match=r"one size.*\(6, 8\), \(8, 6\)"):
        processor(images)
    assert len(processor(images, return_tensors=None)["pixel_values"]) == 2


def test_an_option_of_another_processor_is_refused(processor):
    with pytest.raises(InputError, match="do_resize"):
        processor([noise_image(4, 4)], do_resize=True)
    with pytest.raises(InputError, match="return_tensors"):
        processor([noise_image(4, 4)], return_tensors="tf")


def test_options_survive_the_file(tmp_path):
    processor = VimVQImageProcessor(max_pixels=100, background=(1, 2, 3))
    processor.save_pretrained(tmp_path)

    loaded = VimVQImageProcessor.from_pretrained(tmp_path)

    assert loaded.to_dict() == processor.to_dict()
    with pytest.raises(InputError, match="at most 100"):
        loaded.read(noise_image(11, 10))


def test_bad_options_are_refused_when_made():
    with pytest.raises(ConfigError, match="background"):
        VimVQImageProcessor(background=(0, 0))


def test_the_limit_changes_no_code_but_the_background_does(processor):
    same = VimVQImageProcessor(max_pixels=100)
    other = VimVQImageProcessor(background=(0, 0, 0))

    assert same.code_options() == processor.code_options()
    assert other.code_options() != processor.code_options()
