"""Shares of right bytes, and the price of a token."""

import pytest
import torch

from vqtok.errors import ConfigError, ShapeError
from vqtok.metrics.text import byte_accuracy, vocabulary_bits_per_byte


def test_accuracy_is_the_share_of_right_bytes_of_each_text():
    theirs = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    ours = torch.tensor([[1, 2, 3, 9], [9, 9, 9, 8]])

    assert byte_accuracy(ours, theirs).tolist() == [0.75, 0.25]


def test_padding_counts_nowhere():
    theirs = torch.tensor([[1, 2, 256, 256], [256, 256, 256, 256]])
    ours = torch.tensor([[1, 9, 0, 0], [0, 0, 0, 0]])

    assert byte_accuracy(ours, theirs).tolist() == [0.5, 1.0]


def test_a_vocabulary_of_bytes_costs_eight_bits_a_byte():
    assert vocabulary_bits_per_byte(100, 256, 100) == 8.0
    assert vocabulary_bits_per_byte(100, 4096, 400) == 3.0


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((1, 4), (1, 3))])
def test_bytes_of_other_shapes_are_refused(shapes):
    with pytest.raises(ShapeError, match="two batches of bytes"):
        byte_accuracy(*(torch.zeros(shape, dtype=torch.int64) for shape in shapes))


@pytest.mark.parametrize("arguments", [(1, 1, 1), (1, 256, 0), (-1, 256, 1)])
def test_impossible_prices_are_refused(arguments):
    with pytest.raises(ConfigError, match="vocab_size >= 2"):
        vocabulary_bits_per_byte(*arguments)
