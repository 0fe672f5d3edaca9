"""Quantizers by kind. A new kind is a new file and one line in `QUANTIZERS`."""

import inspect

from vqtok.errors import ConfigError
from vqtok.quantizers.base import Quantizer
from vqtok.quantizers.fsq import FiniteScalarQuantizer
from vqtok.quantizers.product import ProductQuantizer
from vqtok.quantizers.residual import ResidualQuantizer
from vqtok.quantizers.residual_unit import ResidualUnitQuantizer
from vqtok.quantizers.spatial import SpatialQuantizer
from vqtok.quantizers.vq import VectorQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    "vq": VectorQuantizer,
    "residual": ResidualQuantizer,
    "residual_unit": ResidualUnitQuantizer,
    "product": ProductQuantizer,
    "fsq": FiniteScalarQuantizer,
    "spatial": SpatialQuantizer,
}


def build_quantizer(kind: str, **arguments: object) -> Quantizer:
    """A quantizer from its kind and that kind's arguments, as a model's config holds them.

    Args:
        kind: a key of `QUANTIZERS`.
        arguments: of the kind's class: `dim`, `codebook_size`, `num_codebooks`, ...
            `num_codebooks=1` suits every kind.

    Raises:
        ConfigError: an unknown kind, an argument that the kind lacks or misses, or a bad value.
    """
    if kind not in QUANTIZERS:
        raise ConfigError(f"quantizer kinds are {', '.join(sorted(QUANTIZERS))}; got {kind!r}.")
    quantizer = QUANTIZERS[kind]
    parameters = inspect.signature(quantizer).parameters
    if "num_codebooks" not in parameters and arguments.get("num_codebooks") == 1:
        arguments.pop("num_codebooks")
    unknown = sorted(set(arguments) - set(parameters))
    needed = [name for name, it in parameters.items() if it.default is inspect.Parameter.empty]
    missing = sorted(set(needed) - set(arguments))
    if unknown or missing:
        raise ConfigError(
            f"quantizer kind {kind!r} takes {', '.join(parameters)} and needs "
            f"{', '.join(needed)}; unknown here: {unknown}, missing: {missing}."
        )
    return quantizer(**arguments)
