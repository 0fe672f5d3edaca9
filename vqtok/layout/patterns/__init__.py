"""Orders in which codes stand in a sequence, each with its exact inverse; one file a pattern."""

from vqtok.layout.patterns.base import HOLE, ROW_END, Arranged, Pattern
from vqtok.layout.patterns.registry import PATTERNS, build_pattern

__all__ = ["HOLE", "PATTERNS", "ROW_END", "Arranged", "Pattern", "build_pattern"]
