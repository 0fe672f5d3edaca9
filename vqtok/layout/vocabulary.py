"""One vocabulary for everything that a prior reads: text, specials, labels, codes of every level.

Every id has exactly one meaning, and every meaning one id, so `decode` is the exact inverse of
`encode`. The text tokenizer keeps its own ids; the rest follows in the order given, or lies where
an explicit table says, which may be inside the text vocabulary (Chameleon).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtok.errors import CodeRangeError, ConfigError, FormatError, ShapeError
from vqtok.layout.items import CodeItem, Stream, read_item
from vqtok.layout.ranges import IdIndex, IdRange
from vqtok.layout.text import TextVocabulary
from vqtok.ops import smallest_dtype

DEFAULT_SPECIALS = ("bos", "eos", "pad")
RESERVED = ("text", "height", "width", "length")  # they mean something else in templates
TEXT = ("text", "text", 0)


@dataclass(frozen=True)
class Meaning:
    """What an id stands for: `kind` text, special, label or codes; `level` of codes."""

    kind: str
    name: str
    level: int
    value: int


class VocabLayout:
    """Disjoint ids for text, specials, labels and the codes of every stream and level.

    `VocabLayout.build` gives out the ids; the constructor takes them as they were saved.

    Args:
        ranges: what every id means.
        streams: the tokenizers whose codes the vocabulary holds.
        text: the text tokenizer, if any.
        pad_to: the embedding table has a multiple of this many rows.

    Attributes:
        size: the largest id plus one.
        dtype: the smallest unsigned type that holds every id.
    """

    def __init__(
        self,
        ranges: Sequence[IdRange],
        streams: Sequence[Stream] = (),
        text: TextVocabulary | None = None,
        pad_to: int = 1,
    ):
        if pad_to < 1:
            raise ConfigError(f"pad_to must be at least 1; got {pad_to}.")
        if not ranges:
            raise ConfigError("a vocabulary needs at least one special, label, stream or text.")
        self.ranges = tuple(ranges)
        self.streams = {stream.name: stream for stream in streams}
        self.text = text
        self.pad_to = pad_to
        self._number = {part.key: number for number, part in enumerate(self.ranges)}
        if len(self._number) < len(self.ranges) or len(self.streams) < len(streams):
            raise ConfigError("two parts of a vocabulary have the same kind and name.")
        labels = {part.name for part in self.ranges if part.kind == "label"}
        unclear = self.streams.keys() & (labels | {*RESERVED})
        if unclear or "text" in labels:
            raise ConfigError(
                f"templates could not tell {sorted(unclear) or ['text']} apart: streams and labels "
                f"have different names, and none is called {', '.join(RESERVED)}."
            )
        self._index = IdIndex(self.ranges)
        self.size = self._index.size
        self._first = np.array([part.first for part in self.ranges], np.int64)

    @classmethod
    def build(
        cls,
        streams: Sequence[Stream] = (),
        text: Any = None,
        specials: Sequence[str] | Mapping[str, int | None] = DEFAULT_SPECIALS,
        labels: Mapping[str, int | Sequence[int]] | None = None,
        sizes: Mapping[str, int] | None = None,
        pad_to: int = 1,
    ) -> "VocabLayout":
        """Give out ids.

        Args:
            streams: codes; a stream with `ids` keeps them.
            text: a tokenizer of transformers, or a TextVocabulary: its ids stay what they are.
            specials: names; as a mapping, to the id that a name has, for example
                {"bos": tokenizer.bos_token_id}, or None for a new one.
            labels: name to the number of its values (0 to n - 1), or to their ids.
            sizes: "height", "width" or "length" to the largest value; values start at 1.
            pad_to: as above.

        Raises:
            ConfigError: two parts with one name or one id.
        """
        if text is not None and not isinstance(text, TextVocabulary):
            text = TextVocabulary.from_tokenizer(text)
        wanted = list(_wanted(streams, specials, labels or {}, sizes or {}))
        claimed = {int(i) for part in wanted if part["ids"] is not None for i in part["ids"]}
        text_size = text.size if text is not None else 0
        ranges = []
        if text is not None:
            inside = tuple(sorted(i for i in claimed if 0 <= i < text_size))
            ranges.append(IdRange("text", "text", text_size, start=0, without=inside))
        free = max([text_size, *(i + 1 for i in claimed)])
        for part in wanted:
            if part["ids"] is None:
                part["start"], free = free, free + part["size"]
            ranges.append(IdRange(**part))
        return cls(ranges, streams, text, pad_to)

    @property
    def padded_size(self) -> int:
        """Rows of the embedding table: `size` rounded up to a multiple of `pad_to`."""
        return -(-self.size // self.pad_to) * self.pad_to

    @property
    def dtype(self) -> np.dtype:
        return smallest_dtype(self.size)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides an id."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def specials(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.ranges if part.kind == "special")

    def has(self, kind: str, name: str) -> bool:
        return (kind, name, 0) in self._number

    def number(self, kind: str, name: str, level: int = 0) -> int:
        """The place of a range in `ranges`; refuses a name that the vocabulary does not have."""
        key = (kind, name, level)
        if key not in self._number:
            known = sorted({part.name for part in self.ranges if part.kind == kind})
            raise ConfigError(
                f"the vocabulary has no {kind} {name!r}"
                + (f" level {level}" if level else "")
                + "; "
                f"it has {known}."
            )
        return self._number[key]

    def range_of(self, kind: str, name: str, level: int = 0) -> IdRange:
        return self.ranges[self.number(kind, name, level)]

    def special(self, name: str) -> int:
        """The id of a special."""
        return int(self.range_of("special", name).table()[0])

    def label(self, name: str, value: int) -> int:
        """The id of a label's value."""
        return int(self.range_of("label", name).encode(np.asarray([value]))[0])

    def encode_text(self, ids: Any) -> np.ndarray:
        """Ids of the text tokenizer, which stay what they are; int64, checked."""
        values = np.asarray(ids, np.int64) if len(ids) else np.empty(0, np.int64)
        return self.range_of(*TEXT).encode(values)

    def encode(self, name: str, item: Any) -> np.ndarray | Tensor:
        """Codes of a stream to ids.

        Args:
            name: of the stream.
            item: VQTokens, a row of a run, or a mapping with codes and fingerprint.

        Returns:
            int64 [Q, *grid], torch if the item's codes are torch, else numpy.

        Raises:
            FingerprintError: the codes of another tokenizer.
        """
        stream, read = self.stream(name), read_item(item)
        stream.check(read)
        ids = np.empty(tuple(read.codes.shape), np.int64)
        for level, codes in enumerate(read.codes.numpy()):
            ids[level] = self.range_of("codes", name, level).encode(codes)
        given = item["codes"] if isinstance(item, Mapping) else item.codes
        return torch.from_numpy(ids) if isinstance(given, Tensor) else ids

    def decode_codes(self, name: str, ids: np.ndarray | Tensor) -> CodeItem:
        """The inverse of `encode`: ids [Q, *grid] to codes.

        Raises:
            CodeRangeError: an id that is no code of this stream and level.
        """
        stream = self.stream(name)
        array = as_array(ids)
        if array.ndim < 2 or array.shape[0] != stream.num_codebooks:
            raise ShapeError(
                f"ids of stream {name!r} are [{stream.num_codebooks}, *grid]; "
                f"got {list(array.shape)}."
            )
        numbers, offsets = self._index.find(array)
        for level in range(stream.num_codebooks):
            wrong = numbers[level] != self.number("codes", name, level)
            if wrong.any():
                found = int(array[level][wrong].reshape(-1)[0])
                raise CodeRangeError(
                    f"id {found} is no code of stream {name!r} level {level}: "
                    f"{self.describe(found)}."
                )
        return CodeItem(torch.from_numpy(offsets), {}, stream.fingerprint)

    def find(self, ids: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Range number and value of every id, int64; -1 and -1 where an id has no meaning."""
        array = as_array(ids)
        numbers, offsets = self._index.find(array)
        return numbers, np.where(numbers >= 0, offsets + self._first[numbers], -1)

    def meaning(self, token: int) -> Meaning:
        """What one id stands for.

        Raises:
            CodeRangeError: it stands for nothing.
        """
        numbers, values = self.find(np.asarray([token]))
        if numbers[0] < 0:
            raise CodeRangeError(f"id {token} has no meaning in this vocabulary of {self.size}.")
        part = self.ranges[numbers[0]]
        return Meaning(part.kind, part.name, part.level, int(values[0]))

    def describe(self, token: int) -> str:
        """An id in words, for messages."""
        numbers, values = self.find(np.asarray([token]))
        if numbers[0] < 0:
            return f"an id without meaning in this vocabulary of {self.size}"
        part = self.ranges[numbers[0]]
        return str(part) if part.kind == "special" else f"{part} value {int(values[0])}"

    def stream(self, name: str) -> Stream:
        if name not in self.streams:
            raise ConfigError(
                f"the vocabulary has no stream {name!r}; it has {sorted(self.streams)}."
            )
        return self.streams[name]

    def config(self) -> dict[str, int]:
        """What a prior's config needs: vocab_size, and the ids of bos, eos and pad if any."""
        ids = {f"{n}_token_id": self.special(n) for n in DEFAULT_SPECIALS if n in self.specials}
        return {"vocab_size": self.padded_size} | ids

    def to_json(self) -> dict[str, Any]:
        return {
            "ranges": [part.to_json() for part in self.ranges],
            # where the codes lie is in the ranges
            "streams": [asdict(stream) | {"ids": None} for stream in self.streams.values()],
            "text": None if self.text is None else asdict(self.text),
            "pad_to": self.pad_to,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VocabLayout":
        try:
            ranges = [IdRange.from_json(part) for part in values["ranges"]]
            streams = [
                Stream(**(part | {"codebook_sizes": tuple(part["codebook_sizes"])}))
                for part in values["streams"]
            ]
            text = None if values["text"] is None else TextVocabulary(**values["text"])
            return cls(ranges, streams, text, values["pad_to"])
        except (KeyError, TypeError) as error:
            raise FormatError(f"this is no vocabulary that vqtok wrote: {error!r}.") from error


def _wanted(streams, specials, labels, sizes):
    """Every part of a vocabulary but text, as arguments of IdRange; without a start."""
    named = specials if isinstance(specials, Mapping) else dict.fromkeys(specials)
    if len(named) < len(specials):
        raise ConfigError(f"a special has one id; {list(specials)} names one twice.")
    for name, given in named.items():
        ids = None if given is None else (int(given),)
        yield {"kind": "special", "name": name, "size": 1, "ids": ids}
    for name, values in labels.items():
        ids = None if isinstance(values, int) else tuple(map(int, values))
        size = values if ids is None else len(ids)
        yield {"kind": "label", "name": name, "size": size, "ids": ids}
    for name, largest in sizes.items():
        yield {"kind": "label", "name": name, "size": largest, "first": 1, "ids": None}
    for stream in streams:
        for level, size in enumerate(stream.codebook_sizes):
            ids = None if stream.ids is None else stream.ids[level]
            part = {"kind": "codes", "name": stream.name, "level": level}
            yield part | {"size": size, "ids": ids}


def as_array(ids: np.ndarray | Tensor | Sequence[int]) -> np.ndarray:
    """Ids as a numpy array; refuses other dtypes than integers."""
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if not np.issubdtype(array.dtype, np.integer):
        raise ShapeError(f"ids must have an integer dtype; got {array.dtype}.")
    return array
