import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vqtok.data.modalities import MODALITIES
from vqtok.errors import ConfigError, InputError
from vqtok.training.vector_data import VECTOR_SUFFIXES, ShuffledVectors, read_vector_files

VECTORS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def test_the_files_of_a_folder_are_those_that_tokenize_takes():
    assert MODALITIES["embedding"].suffixes == VECTOR_SUFFIXES


def test_vectors_of_all_files_come_in_the_order_of_the_names(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS[:2].astype(np.float64))
    np.savez(tmp_path / "b.npz", only=VECTORS[2:4])
    pq.write_table(pa.table({"embedding": VECTORS[4:].tolist()}), tmp_path / "c.parquet")

    vectors, part = read_vector_files(tmp_path, 4), read_vector_files(tmp_path, 4, limit=3)

    assert vectors.dtype == torch.float32
    assert np.array_equal(vectors.numpy(), VECTORS)
    assert np.array_equal(part.numpy(), VECTORS[:3])


def test_the_column_names_an_array_among_several(tmp_path):
    np.savez(tmp_path / "b.npz", one=VECTORS[:2], two=VECTORS[2:])

    assert len(read_vector_files(tmp_path, 4, "two")) == 4
    with pytest.raises(ConfigError, match=r"\['one', 'two'\], but not 'embedding'"):
        read_vector_files(tmp_path, 4)


@pytest.mark.parametrize(
    ("save", "match"),
    [
        (lambda path: np.save(path, VECTORS[:, :3]), r"4 numbers"),
        (lambda path: np.save(path, VECTORS[0]), r"\[N, D\]"),
        (lambda path: np.save(path, np.full((2, 4), np.nan)), "NaN"),
        (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "cannot be read"),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read"),
    ],
)
def test_what_is_no_vector_of_the_width_is_named(tmp_path, save, match):
    save(tmp_path / "a.npy")

    with pytest.raises(InputError, match=match) as caught:
        read_vector_files(tmp_path, 4)
    assert "a.npy" in str(caught.value)


def test_a_source_without_vectors_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="found none"):
        read_vector_files(tmp_path, 4)


def test_every_vector_comes_once_a_turn_and_by_number():
    rows = torch.arange(7.0)[:, None]
    long, short = ShuffledVectors(rows, 21, seed=1), ShuffledVectors(rows, 14, seed=1)

    seen = [int(long[i]) for i in range(21)]

    assert sorted(seen[:7]) == sorted(seen[7:14]) == sorted(seen[14:]) == list(range(7))
    assert [int(short[i]) for i in reversed(range(14))][::-1] == seen[:14]
    with pytest.raises(IndexError):
        short[14]
