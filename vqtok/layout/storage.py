"""A layout on disk: vqtok_layout.json, beside the prior's config.json."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqtok.errors import ConfigError, FormatError
from vqtok.layout.sequence import SequenceLayout
from vqtok.layout.vocabulary import VocabLayout

LAYOUT_FILE = "vqtok_layout.json"
VERSION = 1
# what a file that is no text, no JSON or of another form makes
UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Layout:
    """A vocabulary and the templates that use it, by name."""

    vocab: VocabLayout
    sequences: Mapping[str, SequenceLayout]

    def __post_init__(self):
        foreign = [name for name, seq in self.sequences.items() if seq.vocab is not self.vocab]
        if foreign:
            raise ConfigError(f"templates {foreign} are over another vocabulary.")

    def sequence(self, name: str | None = None) -> SequenceLayout:
        """A template by name; without one, the only template."""
        if name is None and len(self.sequences) == 1:
            return next(iter(self.sequences.values()))
        if name not in self.sequences:
            raise ConfigError(f"the layout has templates {sorted(self.sequences)}; got {name!r}.")
        return self.sequences[name]

    def decode(self, ids: Any) -> tuple[str, dict[str, Any]]:
        """A sequence of any of the templates: the template's name, and its parts.

        Raises:
            FormatError: none of them reads it; the message says of each why.
        """
        errors = []
        for name, sequence in self.sequences.items():
            try:
                return name, sequence.decode(ids)
            except FormatError as error:
                errors.append(f"{name}: {error}")
        raise FormatError("no template reads this sequence. " + " ".join(errors))

    def save(self, folder: str | os.PathLike) -> Path:
        """Write vqtok_layout.json into a folder, which is made if need be."""
        path = Path(folder) / LAYOUT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike, text_tokenizer: Any = None) -> "Layout":
        """Read what `save` wrote, from the folder or the file.

        Args:
            folder: where vqtok_layout.json is.
            text_tokenizer: the layout's, so that text may come as str; another one is refused.

        Raises:
            FormatError: no such file, or not one of vqtok's.
        """
        path = Path(folder)
        path = path / LAYOUT_FILE if path.is_dir() else path
        if not path.is_file():
            raise FormatError(f"{folder} has no {LAYOUT_FILE}. Make one with `vqtok layout`.")
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")), text_tokenizer)
        except UNREADABLE as error:
            raise FormatError(f"{path} is not a layout of vqtok: {error!r}.") from error

    def to_json(self) -> dict[str, Any]:
        return {
            "vqtok_layout": VERSION,
            "fingerprint": self.vocab.fingerprint,
            "vocabulary": self.vocab.to_json(),
            "sequences": {name: seq.to_json() for name, seq in self.sequences.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], text_tokenizer: Any = None) -> "Layout":
        if values.get("vqtok_layout") != VERSION:
            raise FormatError(
                f"this layout has version {values.get('vqtok_layout')!r}; this vqtok reads "
                f"{VERSION}."
            )
        vocab = VocabLayout.from_json(values["vocabulary"])
        if vocab.fingerprint != values["fingerprint"]:
            raise FormatError("the layout's ids were changed after it was saved; make it again.")
        sequences = {
            name: SequenceLayout(vocab, **parts, text_tokenizer=text_tokenizer)
            for name, parts in values["sequences"].items()
        }
        return cls(vocab, sequences)
