"""Latents to codes and back; one file a method."""

from vqtok.quantizers.base import Quantizer, QuantizerOutput
from vqtok.quantizers.codebook import Codebook
from vqtok.quantizers.fsq import FiniteScalarQuantizer
from vqtok.quantizers.product import ProductQuantizer
from vqtok.quantizers.registry import QUANTIZERS, build_quantizer
from vqtok.quantizers.residual import ResidualQuantizer
from vqtok.quantizers.residual_unit import ResidualUnitQuantizer
from vqtok.quantizers.spatial import SpatialQuantizer
from vqtok.quantizers.vq import VectorQuantizer

__all__ = [
    "QUANTIZERS",
    "Codebook",
    "FiniteScalarQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "QuantizerOutput",
    "ResidualQuantizer",
    "ResidualUnitQuantizer",
    "SpatialQuantizer",
    "VectorQuantizer",
    "build_quantizer",
]
