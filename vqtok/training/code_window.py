"""How often each code was used since the last log, level by level, without stalling the device."""

import torch
from torch import Tensor

from vqtok.metrics.codebook import codebook_stats


class CodeWindow:
    """Counts codes over many steps; the numbers speak of the window, not of one batch.

    Args:
        codebook_sizes: K of each of the Q codebooks.
    """

    def __init__(self, codebook_sizes: tuple[int, ...], device: torch.device):
        self.codebook_sizes = codebook_sizes
        self._counts = [torch.zeros(k, dtype=torch.int64, device=device) for k in codebook_sizes]

    def add(self, codes: Tensor) -> None:
        """int64 [B, Q, *grid]."""
        for level in range(codes.shape[1]):
            # not code_counts: it looks at the codes, and that stalls an accelerator every step
            flat = codes[:, level].flatten()
            self._counts[level].index_add_(0, flat, torch.ones_like(flat))

    def drain(self) -> dict[str, float]:
        """Usage, perplexity and entropy of each level over all processes; starts a new window."""
        report = {}
        for level, counts in enumerate(self._counts):
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(counts)
            stats = codebook_stats(counts)
            for name in ("usage", "perplexity", "entropy_bits"):
                report[f"codebook{level}_{name}"] = getattr(stats, name)
            counts.zero_()
        return report
