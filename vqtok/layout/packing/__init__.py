"""Sequences into rows of one length; one file a method."""

from vqtok.layout.packing.masks import attention_mask
from vqtok.layout.packing.pack import PACKINGS, build_packer, pack
from vqtok.layout.packing.rows import PackedRow, Packer, efficiency

__all__ = [
    "PACKINGS",
    "PackedRow",
    "Packer",
    "attention_mask",
    "build_packer",
    "efficiency",
    "pack",
]
