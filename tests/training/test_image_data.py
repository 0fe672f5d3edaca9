import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vqtok.data.modalities import MODALITIES
from vqtok.data.sources import open_source
from vqtok.errors import ConfigError, InputError
from vqtok.metrics.image import to_uint8
from vqtok.training.image_data import (
    IMAGE_SUFFIXES,
    ImageStore,
    RandomCrops,
    centre_squares,
    resize_square,
    to_pixel_values,
)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def random_pixels(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


class Photos(list):
    """Random photos of a few sizes as uint8 [3, H, W]."""

    def __init__(self, sizes):
        super().__init__(
            torch.from_numpy(random_pixels(h, w, i)).permute(2, 0, 1)
            for i, (h, w) in enumerate(sizes)
        )


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    for name, seed in [("b.png", 2), ("a.png", 1), ("c/d.png", 3)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(random_pixels(5, 7, seed)))
    (tmp_path / "notes.txt").write_text("not an image")

    store = ImageStore(tmp_path)

    assert [tuple(image.shape) for image in store] == [(3, 5, 7)] * 3
    for image, seed in zip(store, (1, 2, 3), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), random_pixels(5, 7, seed))


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_parquet_gives_the_same_pixels_decoded_early_or_late(tmp_path, memory_mb):
    rows = [{"bytes": png(random_pixels(4, 6, i)), "path": None} for i in range(70)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "train.parquet")

    store = ImageStore(tmp_path / "train.parquet", limit=68, memory_mb=memory_mb)

    assert len(store) == 68
    assert np.array_equal(store[67].permute(1, 2, 0).numpy(), random_pixels(4, 6, 67))


def test_an_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it
    Image.fromarray(random_pixels(4, 8)).save(tmp_path / "a.jpg", exif=exif)

    assert tuple(ImageStore(tmp_path)[0].shape) == (3, 8, 4)


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_deep_grey_is_rounded_and_what_is_transparent_is_white(tmp_path, memory_mb):
    Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (4, 4), (200, 100, 0, 0)).save(tmp_path / "glass.png")

    deep, glass = ImageStore(tmp_path, memory_mb=memory_mb)

    assert deep.unique().tolist() == [100]
    assert glass.unique().tolist() == [255]


def test_the_files_of_a_folder_are_those_that_tokenize_takes(tmp_path):
    suffixes = sorted(MODALITIES["image"].suffixes)
    names = [f"{index}{suffix}" for index, suffix in enumerate(suffixes)]
    names += ["UPPER.PNG", "b/c/deep.png", ".hidden.png", ".cache/a.png", "b/.c/d.png", "notes.txt"]
    photo = png(random_pixels(4, 4))
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.png").write_bytes(photo)
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    found = []

    def read(path):
        found.append(path.relative_to(tmp_path / "photos").as_posix())
        return random_pixels(4, 4)

    ImageStore(tmp_path / "photos", read=read)

    assert sorted(found) == [shard.uri for shard in open_source(tmp_path / "photos").list()]
    assert len(found) == len(suffixes) + 3
    assert set(suffixes) == IMAGE_SUFFIXES


def test_a_hidden_file_is_no_source(tmp_path):
    (tmp_path / ".a.png").write_bytes(png(random_pixels(4, 4)))

    with pytest.raises(ConfigError, match="found none"):
        ImageStore(tmp_path / ".a.png")


def test_a_broken_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")

    with pytest.raises(InputError, match=r"broken\.png"):
        ImageStore(tmp_path)


def test_a_broken_row_of_a_table_is_named(tmp_path):
    rows = [png(random_pixels(4, 4)), b"\x89PNG nothing more"]
    pq.write_table(pa.table({"image": rows}), tmp_path / "train.parquet")

    with pytest.raises(InputError, match=r"train\.parquet, row 1"):
        ImageStore(tmp_path)


def test_a_source_without_images_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="found none"):
        ImageStore(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        ImageStore(tmp_path / "nowhere")


def test_a_parquet_file_without_the_column_says_which_it_has(tmp_path):
    pq.write_table(pa.table({"picture": [b""]}), tmp_path / "a.parquet")

    with pytest.raises(ConfigError, match="picture"):
        ImageStore(tmp_path)


def test_a_sample_depends_on_seed_and_number_only():
    photos = Photos([(40, 50), (64, 33), (30, 30)])
    long, short = RandomCrops(photos, 100, 24, seed=3), RandomCrops(photos, 40, 24, seed=3)
    other = RandomCrops(photos, 40, 24, seed=4)

    forward = [short[i] for i in range(40)]
    backward = [long[i] for i in reversed(range(40))][::-1]

    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not all(torch.equal(a, other[i]) for i, a in enumerate(forward))


def test_every_image_comes_once_a_turn():
    photos = [torch.full((3, 8, 8), i, dtype=torch.uint8) for i in range(7)]

    crops = RandomCrops(photos, 21, 8, seed=0)

    seen = [int(crops[i][0, 0, 0]) for i in range(21)]
    assert sorted(seen[:7]) == sorted(seen[7:14]) == sorted(seen[14:]) == list(range(7))
    assert seen[:7] != seen[7:14]


@pytest.mark.parametrize(
    ("scale", "sides"), [((1.0, None), (16, 48)), ((1.0, 1.5), (16, 24)), ((1.0, 1.0), (16, 16))]
)
def test_the_side_of_a_crop_covers_its_range(scale, sides):
    crops = RandomCrops(Photos([(48, 60)]), 10, 16, seed=0, scale=scale)

    found = {crops._side(48, chance) for chance in np.linspace(0, 0.9999, 200)}

    assert found == set(range(sides[0], sides[1] + 1))


def test_an_image_smaller_than_the_crop_is_enlarged():
    crops = RandomCrops(Photos([(10, 12)]), 4, 16, seed=0)

    assert {tuple(crops[i].shape) for i in range(4)} == {(3, 16, 16)}


def test_half_of_the_crops_are_mirrored():
    ramp = torch.arange(8, dtype=torch.uint8).repeat(3, 8, 1)
    crops = RandomCrops([ramp], 400, 8, seed=0)

    mirrored = sum(int(crops[i][0, 0, 0]) == 7 for i in range(400))

    assert 150 < mirrored < 250


def test_resizing_agrees_with_pillow():
    photo = torch.from_numpy(np.array(Image.linear_gradient("L").resize((90, 90))))
    photo = photo.expand(3, -1, -1).contiguous()

    ours = resize_square(photo, 40).permute(1, 2, 0).numpy()

    theirs = Image.fromarray(photo.permute(1, 2, 0).numpy()).resize((40, 40), 3)
    assert np.abs(ours.astype(int) - np.array(theirs).astype(int)).max() <= 1


def test_centre_squares_are_the_middle_of_each_image():
    photos = Photos([(20, 30), (25, 20)])

    squares = centre_squares(photos, 20)

    assert torch.equal(squares[0], photos[0][:, :, 5:25])
    assert torch.equal(squares[1], photos[1][:, 2:22])


def test_pixels_come_back_from_the_models_range():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)

    values = to_pixel_values(pixels)

    assert (values.min().item(), values.max().item()) == (-1.0, 1.0)
    assert torch.equal(to_uint8(values), pixels)


@pytest.mark.parametrize("options", [{"length": 0}, {"crop": 0}, {"scale": (2.0, 1.0)}])
def test_crops_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match="crops want"):
        RandomCrops(Photos([(8, 8)]), **{"length": 1, "crop": 8, "seed": 0} | options)
