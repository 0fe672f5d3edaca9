"""Patterns by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vqtok.errors import ConfigError
from vqtok.layout.patterns.base import Pattern
from vqtok.layout.patterns.coarse_first import CoarseFirst
from vqtok.layout.patterns.column import Column
from vqtok.layout.patterns.delay import Delay
from vqtok.layout.patterns.delay_flat import DelayFlat
from vqtok.layout.patterns.frame import Frame
from vqtok.layout.patterns.parallel import Parallel
from vqtok.layout.patterns.raster import Raster
from vqtok.layout.patterns.raster_rows import RasterRows

PATTERNS: dict[str, type[Pattern]] = {
    pattern.name: pattern
    for pattern in (Raster, RasterRows, Column, Frame, CoarseFirst, Delay, DelayFlat, Parallel)
}


def build_pattern(spec: str | Mapping[str, Any] | Pattern) -> Pattern:
    """A pattern from its name, from what `to_json` gave, or as it is.

    Raises:
        ConfigError: an unknown name, or an argument that the pattern does not take.
    """
    if isinstance(spec, Pattern):
        return spec
    arguments = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = arguments.pop("name", None)
    if name not in PATTERNS:
        raise ConfigError(f"there is no pattern {name!r}; there are {', '.join(PATTERNS)}.")
    kind = PATTERNS[name]
    known = {field.name for field in fields(kind)}
    if not arguments.keys() <= known:
        raise ConfigError(
            f"the pattern {name!r} takes {sorted(known) or 'no arguments'}; "
            f"got {sorted(arguments)}."
        )
    lists = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()}
    return kind(**lists)
