"""Errors and neighbours of vectors, against faiss and numbers worked out by hand."""

import faiss
import pytest
import torch

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics import vectors as metrics
from vqtok.metrics.vectors import neighbour_recall, relative_error, squared_error


def test_errors_are_those_worked_out_by_hand():
    vectors = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    back = torch.tensor([[1.0, 0.0], [4.0, 3.0]])

    assert squared_error(vectors, back) == 5
    assert relative_error(vectors, back) == 5 / 4
    assert relative_error(vectors, vectors) == 0
    assert relative_error(vectors, vectors.mean(0).expand(2, -1)) == 1
    assert relative_error(vectors[:1], vectors[:1]) == 0


@pytest.mark.parametrize("block_floats", [2**24, 1000])
def test_recall_is_that_of_an_exhaustive_search(block_floats, monkeypatch):
    monkeypatch.setattr(metrics, "MAX_BLOCK_FLOATS", block_floats)
    vectors = torch.randn(300, 8)
    back = vectors + 0.5 * torch.randn(300, 8)

    recall = neighbour_recall(vectors, back, k=5)

    found = 0
    for row in range(300):
        others = [index for index in range(300) if index != row]
        query = vectors[row : row + 1].numpy()
        near, now = (faiss.knn(query, it[others].numpy(), 5)[1][0] for it in (vectors, back))
        found += len(set(near) & set(now))
    assert recall == pytest.approx(found / 1500, abs=1e-3)


def test_recall_is_1_for_perfect_vectors_also_far_from_the_origin():
    vectors = torch.randn(200, 8)

    assert neighbour_recall(vectors, vectors, k=10) == 1
    assert neighbour_recall(vectors + 1000, vectors + 1000, k=10, max_queries=50) == 1


def test_recall_of_unrelated_vectors_is_chance():
    assert neighbour_recall(torch.randn(500, 8), torch.randn(500, 8), k=10) < 0.05


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"\[N, D\]"):
        squared_error(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ConfigError, match="k < N"):
        neighbour_recall(torch.zeros(3, 2), torch.zeros(3, 2), k=3)
