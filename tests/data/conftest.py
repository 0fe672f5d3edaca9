"""Folders of images, good and bad, and the tokenizer of ten lines."""

import io
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.data.fake import FakeTokenizer


def png(seed: int, height: int = 16, width: int = 24) -> bytes:
    """A PNG of random colour patches; another seed gives other codes."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    pixels = patches.repeat(8, 0).repeat(8, 1)[:height, :width]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def huge_png() -> bytes:
    """A PNG whose header says 30,000 x 30,000, and which holds next to nothing."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch) -> None:
    """What `datasets` copies out of parquet goes away with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))


@pytest.fixture
def tokenizer() -> FakeTokenizer:
    return FakeTokenizer()


@pytest.fixture
def photos(tmp_path) -> Path:
    """Ten images of several sizes in nested folders, and two files that are none."""
    root = tmp_path / "photos"
    for index in range(10):
        name = root / ("abc"[index % 3]) / f"{index}.{['png', 'PNG'][index % 2]}"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(png(index, height=8 + 5 * index, width=40 - 3 * index))
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(b"")
    return root


@pytest.fixture
def mixed(tmp_path) -> tuple[Path, dict[str, str]]:
    """A folder of good and bad files, and the status that each must get."""
    root = tmp_path / "mixed"
    root.mkdir()
    files = {
        "a.png": (png(1), "ok"),
        "b_truncated.png": (png(2, 64, 64)[:-40], "decode_error"),
        "c_empty.png": (b"", "empty"),
        "d_huge.png": (huge_png(), "too_large"),
        "e_text.jpg": (b"hello, I am text\n" * 9, "decode_error"),
        "f.png": (png(3), "ok"),
    }
    for name, (data, _) in files.items():
        (root / name).write_bytes(data)
    return root, {name: status for name, (_, status) in files.items()}
