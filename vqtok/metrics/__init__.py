"""Numbers that say how good a tokenizer is."""

from vqtok.metrics.codebook import (
    CodebookStats,
    code_counts,
    codebook_stats,
    level_stats,
    region_stats,
)

__all__ = ["CodebookStats", "code_counts", "codebook_stats", "level_stats", "region_stats"]
