"""What the tests of the ops share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def regret() -> Callable[[Tensor, Tensor, Tensor], float]:
    """How much farther than the best code the chosen ones are, beside the largest distance.

    In float64; a tie may fall either way on another device, and costs nothing here.
    """

    def measured(latents: Tensor, codebook: Tensor, chosen: Tensor) -> float:
        assert chosen.dtype == torch.int64
        assert chosen.shape == latents.shape[:1]
        # moved to the codes, because cdist by products has the rounding that is under test
        origin = codebook.double().mean(0)
        distance = torch.cdist(
            latents.double() - origin,
            codebook.double() - origin,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        extra = distance.gather(1, chosen[:, None]).squeeze(1) - distance.amin(1)
        return float(extra.max() / distance.max()) if chosen.numel() else 0.0

    return measured
