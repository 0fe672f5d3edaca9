"""What every kind of picture becomes: uint8 [H, W, 3]."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.models.toy_tokenizer import noise_image
from vqtok.errors import ConfigError, InputError
from vqtok.models.images import UPRIGHT, check_options, read_image

PIXELS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3) * 2
GREY = PIXELS[..., 0]
WHITE = np.full((5, 7, 3), 255, dtype=np.uint8)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises more pixels than it holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.fixture
def carriers(tmp_path):
    """The same picture in everything that can hold it."""
    image = Image.fromarray(PIXELS)
    path = tmp_path / "photo.png"
    image.save(path)
    return {
        "image": image,
        "path": path,
        "str": str(path),
        "bytes": encoded(image),
        "bytearray": bytearray(encoded(image)),
        "file": io.BytesIO(encoded(image)),
        "dict of bytes": {"bytes": encoded(image), "path": None},
        "dict of path": {"bytes": None, "path": str(path)},
        "uint8": PIXELS,
        "uint16": PIXELS.astype(np.uint16) * 257,
        "float": PIXELS.astype(np.float32) / 255,
        "float16": (PIXELS / 255).astype(np.float16),
        "not contiguous": np.asfortranarray(PIXELS),
        "opaque": np.dstack([PIXELS, np.full((5, 7), 255, np.uint8)]),
        "RGBA": image.convert("RGBA"),
        "TIFF": encoded(image, "TIFF"),
        "BMP": encoded(image, "BMP"),
        "WebP": encoded(image, "WEBP", lossless=True),
    }


def test_one_picture_gives_one_array_whatever_carries_it(carriers):
    for name, carrier in carriers.items():
        pixels = read_image(carrier)
        assert pixels.dtype == np.uint8, name
        assert np.array_equal(pixels, PIXELS), name


def test_grey_is_three_equal_channels(tmp_path):
    deep = GREY.astype(np.uint16) * 257
    carriers = [
        Image.fromarray(GREY),
        encoded(Image.fromarray(GREY)),
        GREY,
        GREY[..., None],
        encoded(Image.fromarray(deep)),  # 16-bit PNG
        encoded(Image.fromarray(deep), "TIFF"),
        Image.fromarray(deep),  # mode I;16
        Image.fromarray(deep.astype(np.int32)),  # mode I
        Image.fromarray((GREY / 255).astype(np.float32)),  # mode F
        np.dstack([GREY, np.full_like(GREY, 255)]),
        deep,
        GREY.astype(np.float64) / 255,
    ]

    for number, carrier in enumerate(carriers):
        assert np.array_equal(read_image(carrier), three(GREY)), number


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight():
    values = np.array([[0, 128, 129, 257, 385, 386, 65535]], dtype=np.uint16)

    assert read_image(values)[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 255]


def test_bilevel_pixels_are_black_and_white():
    mask = GREY > 100

    assert np.array_equal(read_image(Image.fromarray(mask)), three(mask * np.uint8(255)))
    assert np.array_equal(read_image(mask), three(mask * np.uint8(255)))


def test_transparency_shows_the_background():
    alpha = np.zeros((5, 7), np.uint8)
    alpha[2] = 255
    expected = np.where(alpha[..., None] == 255, PIXELS, np.uint8(255))
    image = Image.fromarray(np.dstack([PIXELS, alpha]))

    assert np.array_equal(read_image(image), expected)
    assert np.array_equal(read_image(encoded(image, "WEBP", lossless=True, exact=True)), expected)
    assert np.array_equal(read_image(np.dstack([PIXELS, alpha])), expected)
    assert np.array_equal(read_image(image, background=(1, 2, 3))[0], np.tile([1, 2, 3], (7, 1)))


def test_half_transparent_is_half_way():
    image = Image.new("RGBA", (1, 1), (0, 100, 255, 128))

    assert read_image(image)[0, 0].tolist() == [127, 177, 255]


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa"])
def test_every_mode_with_alpha_is_laid_over_white(mode):
    clear = Image.new("RGBA", (7, 5), (9, 9, 9, 0)).convert("LA" if mode == "La" else "RGBA")

    assert np.array_equal(read_image(clear.convert(mode)), WHITE)


@pytest.mark.parametrize(("mode", "key"), [("P", 3), ("L", 3), ("RGB", (3, 3, 3)), ("1", 0)])
def test_a_transparent_colour_is_transparency(mode, key):
    image = Image.new(mode, (7, 5), key)
    if mode == "P":
        image.putpalette([9] * 768)
    content = encoded(image, transparency=key)

    assert np.array_equal(read_image(content), WHITE)


def test_palettes_are_looked_up():
    image = Image.fromarray(PIXELS).quantize(8)

    assert np.array_equal(read_image(encoded(image)), np.array(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV"])
def test_other_colour_spaces_become_rgb(mode):
    image = Image.fromarray(PIXELS).convert(mode)

    assert np.array_equal(read_image(image), np.array(image.convert("RGB")))


def test_cmyk_jpeg_becomes_rgb():
    content = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)

    assert np.abs(read_image(content).astype(int) - [255, 0, 0]).max() <= 4


def test_lab_is_refused_because_it_has_no_fixed_rgb():
    with pytest.raises(InputError, match="LAB"):
        read_image(Image.new("LAB", (4, 4)))


@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_a_picture_is_read_upright(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    content = encoded(noise_image(16, 8), kind, exif=exif, **options)

    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))

    assert read_image(content).shape == ((16, 8, 3) if orientation >= 5 else (8, 16, 3))
    assert np.array_equal(read_image(content), np.array(upright))


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, when it opens a JPEG
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_broken_exif_costs_only_the_orientation(exif):
    content = encoded(noise_image(8, 8), "JPEG", exif=exif)

    assert read_image(content).shape == (8, 8, 3)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation

    assert read_image(encoded(noise_image(8, 4), "PNG", exif=exif)).shape == (4, 8, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)

    assert read_image(content)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", "empty"),
        (b"not an image", "decode_error"),
        (b"\xff\xd8\xff\xe0", "decode_error"),
        (b"%PDF-1.4", "decode_error"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "decode_error"),
        (png_header(20_000, 20_000), "too_large"),
        (png_header(12_000, 8_000), "decode_error"),
        (png_header(0, 10), "decode_error"),
        (png_header(64, 64), "decode_error"),
        (encoded(noise_image(64, 64), "JPEG")[:800], "decode_error"),
        (encoded(noise_image(64, 64), "PNG")[:800], "decode_error"),
        (encoded(noise_image(64, 64), "GIF")[:800], "decode_error"),
        (encoded(noise_image(64, 64), "TIFF")[:800], "decode_error"),
        (encoded(noise_image(64, 64), "WEBP")[:800], "decode_error"),
        (encoded(noise_image(64, 64), "BMP")[:800], "decode_error"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_file_is_one_error_that_names_it(tmp_path, content, status):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"broken\.jpg") as caught:
        read_image(path)
    assert caught.value.status == status
    with pytest.raises(InputError) as caught:
        read_image(content)
    assert caught.value.status == status


def test_a_header_above_the_limit_is_refused_before_decoding():
    content = png_header(1000, 1001)

    with pytest.raises(InputError, match="1000 x 1001 pixels; at most 1,000,000") as caught:
        read_image(content, max_pixels=1_000_000)
    assert caught.value.status == "too_large"


def test_flipped_bytes_never_escape_as_another_error():
    generator = np.random.default_rng(0)
    kinds = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM")
    refused = 0
    for kind in kinds:
        original = np.frombuffer(encoded(noise_image(24, 16), kind), np.uint8)
        for _ in range(40):
            content = original.copy()
            places = generator.integers(0, len(content), 8)
            content[places] = generator.integers(0, 256, 8)
            try:
                assert read_image(content.tobytes(), max_pixels=10**6).dtype == np.uint8
            except InputError:
                refused += 1
    assert refused > 40


@pytest.mark.parametrize(
    ("item", "message", "status"),
    [
        (np.zeros((0, 4, 3), np.uint8), "no pixels", "empty"),
        (Image.new("RGB", (0, 4)), "no pixels", "empty"),
        (np.zeros(4, np.uint8), r"\[H, W, C\]", "decode_error"),
        (np.zeros((3, 8, 8), np.uint8), "channels last", "decode_error"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"\[H, W, C\]", "decode_error"),
        (np.zeros((4, 4), np.int64), "astype", "decode_error"),
        (np.zeros((4, 4), np.complex64), "complex64", "decode_error"),
        (np.full((4, 4), np.nan), "NaN", "nonfinite"),
        (np.full((4, 4), np.inf, np.float32), "infinity", "nonfinite"),
        (np.full((4, 4), 255.0), "divide by 255", "decode_error"),
        (np.full((4, 4), -0.5), "divide by 255", "decode_error"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "0 to 65535", "decode_error"),
        (Image.fromarray(np.full((4, 4), -1, np.int32)), "0 to 65535", "decode_error"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "NaN", "nonfinite"),
        ("no/such/file.png", r"no/such/file\.png.*FileNotFoundError", "decode_error"),
        ("https://example.com/a.png", "example", "decode_error"),
        (".", "IsADirectoryError", "decode_error"),
        ("nul\0byte", "cannot be read", "decode_error"),
        ({"url": "x"}, 'wants "bytes" or "path"', "decode_error"),
        (None, "got a NoneType", "decode_error"),
        (3, "got a int", "decode_error"),
        ([1, 2], "got a list", "decode_error"),
    ],
    ids=str,
)
def test_what_is_no_picture_says_so(item, message, status):
    with pytest.raises(InputError, match=message) as caught:
        read_image(item)
    assert caught.value.status == status


def test_the_readers_image_is_left_as_it_was():
    image = Image.fromarray(np.dstack([PIXELS, GREY]))
    before = image.tobytes()

    read_image(image)[:] = 0

    assert image.tobytes() == before
    pixels = PIXELS.copy()
    read_image(pixels)[:] = 0
    assert np.array_equal(pixels, PIXELS)


@pytest.mark.parametrize("max_pixels", [0, 10**9])
def test_limits_that_cannot_be_kept_are_refused(max_pixels):
    with pytest.raises(ConfigError, match="max_pixels"):
        check_options(max_pixels, (0, 0, 0))


@pytest.mark.parametrize("background", [(0, 0), (0, 0, 256), (0.0, 0, 0), "red"])
def test_a_background_is_three_bytes(background):
    with pytest.raises(ConfigError, match="background"):
        check_options(10, background)
