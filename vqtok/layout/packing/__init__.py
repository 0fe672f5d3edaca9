"""Sequences into rows of one length; one file a method."""

from vqtok.layout.packing.masks import attention_mask
from vqtok.layout.packing.pack import PACKINGS, pack
from vqtok.layout.packing.rows import PackedRow, efficiency

__all__ = ["PACKINGS", "PackedRow", "attention_mask", "efficiency", "pack"]
