"""Product quantization: groups of channels side by side, as faiss has them."""

import faiss
import numpy as np
import pytest
import torch

from vqtok.errors import ConfigError
from vqtok.quantizers import ProductQuantizer

DIM, SIZE, GROUPS = 24, 16, 6


def with_faiss_centroids(vectors: torch.Tensor) -> tuple[ProductQuantizer, faiss.ProductQuantizer]:
    peer = faiss.ProductQuantizer(DIM, GROUPS, 4)
    peer.train(vectors.numpy())
    centroids = faiss.vector_to_array(peer.centroids).reshape(GROUPS, SIZE, DIM // GROUPS)
    quantizer = ProductQuantizer(DIM, SIZE, GROUPS).eval()
    for book, codes in zip(quantizer.codebooks, centroids, strict=True):
        book.codes.copy_(torch.from_numpy(codes))
    return quantizer, peer


def error(quantizer: ProductQuantizer, vectors: torch.Tensor) -> float:
    return (quantizer.decode(quantizer.encode(vectors)) - vectors).square().sum(1).mean().item()


def test_codes_and_vectors_are_those_of_faiss_with_the_same_centroids():
    vectors = torch.randn(1000, DIM)
    quantizer, peer = with_faiss_centroids(vectors)

    codes = quantizer.encode(vectors)

    # faiss packs two codes of 4 bits into a byte, the first one low
    packed = peer.compute_codes(vectors.numpy())
    expected = np.stack([packed & 15, packed >> 4], -1).reshape(len(vectors), GROUPS)
    assert torch.equal(codes, torch.from_numpy(expected).long())
    assert torch.equal(quantizer.decode(codes), torch.from_numpy(peer.decode(packed)))


def test_a_group_of_channels_decides_its_own_code_and_no_other():
    quantizer = ProductQuantizer(DIM, SIZE, GROUPS)
    vectors = torch.randn(50, DIM)
    changed = vectors.clone()
    changed[:, 8:12] += 100  # the third group

    codes, after = quantizer.encode(vectors), quantizer.encode(changed)

    assert (codes != after).any(0).tolist() == [False, False, True, False, False, False]


def test_channels_left_out_come_back_as_the_mean_of_their_codes():
    quantizer = ProductQuantizer(DIM, SIZE, GROUPS)
    vectors = torch.randn(50, DIM)

    back = quantizer.decode(quantizer.encode(vectors, num_codebooks=2))

    assert torch.equal(back[:, :8], quantizer.decode(quantizer.encode(vectors))[:, :8])
    for group, book in enumerate(quantizer.codebooks[2:], 2):
        expected = book.codes.mean(0).expand(50, -1)
        torch.testing.assert_close(back[:, 4 * group : 4 * group + 4], expected)


def test_fit_is_as_good_as_faiss():
    vectors = torch.randn(2000, DIM)
    _, peer = with_faiss_centroids(vectors)
    theirs = np.square(peer.decode(peer.compute_codes(vectors.numpy())) - vectors.numpy())
    quantizer = ProductQuantizer(DIM, SIZE, GROUPS)

    quantizer.fit(vectors, rounds=10)

    assert error(quantizer, vectors) < 1.02 * theirs.sum(1).mean()


def test_a_group_must_be_a_whole_number_of_channels():
    with pytest.raises(ConfigError, match="multiple of num_codebooks"):
        ProductQuantizer(10, 16, 4)
