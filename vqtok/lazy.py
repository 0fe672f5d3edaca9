"""Names of a package that are loaded on first use, so that importing the package costs nothing."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`: `names` says which module each name is loaded from."""

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(names[name]), name)

    return load
