"""The text tokenizer of a prior: its whole vocabulary at its own ids, and which one it is."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from vqtok.errors import FingerprintError

# set by calls like tokenizer(..., padding=True): no part of what a tokenizer is
PASSING_STATE = ("truncation", "padding")


@dataclass(frozen=True)
class TextVocabulary:
    """A text tokenizer, as a layout remembers it.

    Attributes:
        name: what loads it again.
        size: ids 0 to size - 1, added tokens and holes included.
        fingerprint: sha256 of its vocabulary, merges and normalization.
    """

    name: str
    size: int
    fingerprint: str

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, name: str = "") -> "TextVocabulary":
        """From a tokenizer of transformers, fast or slow."""
        vocabulary = tokenizer.get_vocab()
        # `vocab_size` leaves out added tokens, and ids may have holes
        size = max(len(tokenizer), max(vocabulary.values()) + 1)
        name = name or getattr(tokenizer, "name_or_path", "")
        return cls(name, size, text_fingerprint(tokenizer))

    def check(self, tokenizer: Any) -> None:
        """Refuse a text tokenizer that is not the layout's."""
        found = text_fingerprint(tokenizer)
        if found != self.fingerprint:
            raise FingerprintError(
                f"the layout was built for the text tokenizer {self.name!r} "
                f"({self.fingerprint[:16]}); this one is {found[:16]}. Load that one, or build "
                "another layout."
            )


def text_fingerprint(tokenizer: Any) -> str:
    """sha256 of what decides the ids of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        content = json.loads(backend.to_str())
        content = {key: value for key, value in content.items() if key not in PASSING_STATE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
