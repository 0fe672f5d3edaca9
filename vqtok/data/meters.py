"""What every evaluation has in common: rate, codebook health, and a classical codec beside it."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vqtok.errors import ConfigError
from vqtok.metrics.codebook import code_counts, codebook_stats


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """What codes cost and what they keep; a subclass adds rate and distortion of its modality.

    Attributes:
        skipped: inputs that could not be read; `status` says why.
        codebooks: one entry per codebook, see `vqtok.metrics.CodebookStats`.
        classical: one entry per classical codec, see `Beside.row`; empty if not asked for.
    """

    modality: ClassVar[str] = ""
    skipped: int
    status: dict[str, int]
    codebooks: list[dict]
    classical: list[dict]

    @property
    def items(self) -> int:
        """How many inputs were measured."""
        raise NotImplementedError(f"{type(self).__name__} must define items.")

    def to_dict(self) -> dict:
        own = asdict(self)
        common = {name: own.pop(name) for name in ("skipped", "status", "codebooks", "classical")}
        last = {name: common.pop(name) for name in ("codebooks", "classical")}
        return {"modality": self.modality, **common, **own, **last}


RATES = frozenset({"bits_per_pixel", "kilobits_per_second"})


class Beside:
    """A classical codec on the same inputs: its numbers, and the tokenizer's on those it managed.

    Args:
        codec: its name and setting.
        note: why there are no numbers, or what they leave out.
    """

    def __init__(self, codec: str, note: str = ""):
        self.codec, self.note = codec, note
        self.theirs: list[dict[str, float]] = []
        self.ours: list[dict[str, float]] = []
        self.amounts: list[float] = []
        self.items = self.failed = 0

    def add(
        self,
        theirs: dict[str, float] | None,
        ours: dict[str, float],
        items: int = 1,
        amount: float = 1.0,
    ) -> None:
        """Numbers for so many inputs; None: the codec has no setting at so few bytes.

        `amount` is what their rate is over: seconds, pixels. The mean rate of many is that of all
        bits over all of it.
        """
        if theirs is None:
            self.failed += items
            return
        self.items += items
        self.theirs.append(theirs)
        self.ours.append(ours)
        self.amounts.append(amount)

    def row(self) -> dict:
        """Codec, inputs it managed and did not, means of its numbers and of the tokenizer's."""
        return {
            "codec": self.codec,
            "items": self.items,
            "failed": self.failed,
            "codec_values": means(self.theirs, self.amounts),
            "tokenizer_values": means(self.ours, self.amounts),
            "note": self.note,
        }


class Meter(ABC):
    """Measures one modality, item by item.

    Args:
        tokenizer: with `codebook_sizes` and `code_bits`.
        num_codebooks: of the codes that will come.
        classical: also run the classical codecs.
        size: side of the squares that images are cut to.
    """

    modality: ClassVar[str]

    def __init__(
        self,
        tokenizer: Any,
        num_codebooks: int | None = None,
        classical: bool = True,
        size: int | None = None,
    ):
        if size is not None and self.modality != "image":
            raise ConfigError(f"size cuts images; this tokenizer takes {self.modality}.")
        self.tokenizer, self.classical, self.size = tokenizer, classical, size
        self.sizes = tuple(tokenizer.codebook_sizes)[:num_codebooks]
        self.code_bits = tuple(tokenizer.code_bits)[:num_codebooks]
        self.counts = [torch.zeros(size, dtype=torch.int64) for size in self.sizes]

    @abstractmethod
    def read(self, data: Any) -> Any:
        """An input as the tokenizer takes it, and as distortion is measured against it.

        Raises:
            InputError: it cannot be read.
        """

    @abstractmethod
    def add(self, original: Any, tokens: Any, back: Any) -> None:
        """Count one input: as it was read, its tokens, and what they decode to."""

    @abstractmethod
    def report(self, status: Counter[str]) -> EvaluationReport:
        """The numbers of all inputs; `status` counts those that could not be read."""

    def count(self, codes: Tensor) -> float:
        """Counts the codes [Q, *grid] of one item; returns the bits that they take."""
        for level, plane in enumerate(codes):
            self.counts[level] += code_counts(plane, self.sizes[level])
        pairs = zip(codes, self.code_bits, strict=True)
        return sum(plane.numel() * bits for plane, bits in pairs)

    def common(self, status: Counter[str], beside: Iterable[Beside]) -> dict[str, Any]:
        """The fields that all reports share."""
        return {
            "skipped": status.total(),
            "status": dict(sorted(status.items())),
            "codebooks": [asdict(codebook_stats(counts)) for counts in self.counts],
            "classical": [codec.row() for codec in beside],
        }


def mean(values: Sequence[float | None]) -> float | None:
    """Of the numbers among the values; None if there are none."""
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else None


def means(entries: Sequence[dict[str, float]], amounts: Sequence[float]) -> dict[str, float | None]:
    """Of every name among the entries; rates count by their amounts."""
    found = {}
    for name in (entries or [{}])[0]:
        values = [entry[name] for entry in entries]
        if name in RATES:
            found[name] = sum(v * a for v, a in zip(values, amounts, strict=True)) / sum(amounts)
        else:
            found[name] = mean(values)
    return found
