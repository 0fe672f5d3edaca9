"""Rate, distortion and codebook health of a tokenizer on a source, beside a classical codec.

source ──read──▶ item ──tokenize──▶ tokens ──detokenize──▶ item ──meter──▶ report
"""

import importlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vqtok.data.meters import EvaluationReport, Meter
from vqtok.data.modalities import item_of, modality_of
from vqtok.data.plan import build_plan
from vqtok.data.progress import progress_of
from vqtok.data.sources import RawSample, Source, open_source
from vqtok.errors import ConfigError, InputError

# modality -> where its meter is; torchmetrics and PIL are loaded for those who need them
METERS = {
    "image": ("vqtok.data.evaluate_image", "ImageMeter"),
    "audio": ("vqtok.data.evaluate_audio", "AudioMeter"),
    "text": ("vqtok.data.evaluate_text", "TextMeter"),
    "embedding": ("vqtok.data.evaluate_vectors", "VectorMeter"),
}
AT_ONCE = 64  # texts or vectors handed over in one call


def evaluate_dataset(
    tokenizer: Any,
    source: str | os.PathLike | Source,
    *,
    size: int | None = None,
    batch_size: int | None = None,
    num_codebooks: int | None = None,
    column: str | None = None,
    classical: bool = True,
    progress: bool | str = False,
) -> EvaluationReport:
    """Encode and decode every input of a source and measure; nothing is written.

    Args:
        tokenizer: with `tokenize`, `detokenize`, `modality`, `codebook_sizes` and `code_bits`.
        source: as for `tokenize_dataset`.
        size: of images: cut the centre square and resize it (bicubic) to this side first.
        batch_size: inputs per forward; default: the tokenizer's own.
        num_codebooks: use only the first so many codebooks; default: all.
        column: column of a table with the inputs; default: found by name and type.
        classical: also run JPEG and WebP, Opus, gzip and xz, or plain vector formats.
        progress: "bar" (or True), "json" or "none" (or False), on stderr.

    Returns:
        An ImageReport, AudioReport, TextReport or VectorReport.

    Raises:
        ConfigError: an option cannot be obeyed.
        InputError: not a single input could be read.
    """
    plural = modality_of(tokenizer.modality).plural
    if size is not None and size < 1:
        raise ConfigError(f"size must be at least 1 pixel; got {size}.")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
    if num_codebooks is not None and not 1 <= num_codebooks <= tokenizer.num_codebooks:
        raise ConfigError(
            f"num_codebooks must be 1 to {tokenizer.num_codebooks} with this tokenizer; got "
            f"{num_codebooks}."
        )
    opened = open_source(source, tokenizer.modality, column)
    plan = build_plan(opened.list())
    module, name = METERS[tokenizer.modality]
    meter = getattr(importlib.import_module(module), name)(
        tokenizer, num_codebooks, classical, size
    )
    status: Counter[str] = Counter()
    options = {"batch_size": batch_size, "num_codebooks": num_codebooks}
    options = {name: value for name, value in options.items() if value is not None}
    at_once = AT_ONCE if tokenizer.modality in ("text", "embedding") else 1
    with progress_of(plan.rows, progress, "evaluate") as on_rows:
        samples = itertools.chain.from_iterable(opened.read(unit.segments) for unit in plan.units)
        items = readable(samples, meter, status, on_rows)
        while chunk := list(itertools.islice(items, max(batch_size or 1, at_once))):
            tokens = tokenizer.tokenize(chunk, **options)
            for item, own, back in zip(chunk, tokens, tokenizer.detokenize(tokens), strict=True):
                meter.add(item, own, back)
    opened.close()
    if status.total() == plan.rows:
        raise InputError(
            f"none of the {plan.rows} {plural} of {source} could be read: {dict(status)}."
        )
    return meter.report(status)


def readable(
    samples: Iterable[RawSample], meter: Meter, status: Counter[str], on_rows: Callable[[int], None]
) -> Iterator[Any]:
    """The items that can be read; the others are counted in `status`."""
    for sample in samples:
        on_rows(1)
        try:
            item = meter.read(item_of(sample, meter.modality))
        except InputError as error:
            status[error.status] += 1
            continue
        yield item
