"""Tokenizers that end their process, or never answer, on one image; importable by workers."""

import hashlib
import os
import time

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer

__all__ = ["EndsOnOne", "FakeTokenizer", "SleepsOnOne", "Slow"]

# the image that they do it on
BAD = hashlib.sha256(png(5)).hexdigest()


def is_bad(item) -> bool:
    return hashlib.sha256(item).hexdigest() == BAD


class EndsOnOne(FakeTokenizer):
    def _one(self, item):
        if is_bad(item):
            os._exit(139)
        return super()._one(item)


class SleepsOnOne(FakeTokenizer):
    def _one(self, item):
        if is_bad(item):
            time.sleep(3600)
        return super()._one(item)


class EndsAlways(FakeTokenizer):
    def _one(self, item):
        os._exit(1)


class Slow(FakeTokenizer):
    """Slow enough for a signal to come in the middle."""

    def _one(self, item):
        time.sleep(0.004)
        return super()._one(item)
