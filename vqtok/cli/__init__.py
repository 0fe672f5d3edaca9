"""The `vqtok` program."""

from vqtok.cli.main import app

__all__ = ["app"]
