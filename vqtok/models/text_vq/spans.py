"""Where residual codebooks of text start: level q spells its own bytes of a patch.

    patch of 4 bytes, 2 levels       T h | e _        level 0: the most frequent pairs "Th"
                                     └─┬─┘ └─┬─┘       level 1: the most frequent pairs "e_"
                                   level 0  level 1

The latents of a fresh encoder are sums of what each byte gives, so the codes of all levels add up
to the latent of the whole patch exactly. A patch whose spans are all in the tables comes back
without an error before any training; one with a rare span has, as a rule, one wrong byte.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from vqtok.models.text_vq.text_processing_text_vq import PAD
from vqtok.quantizers.codebook import Codebook
from vqtok.quantizers.sync import is_first_rank, sum_over_ranks

LONGEST_SPAN = 2  # 65,536 counts; three bytes would take 16 million


def level_spans(patch_bytes: int, levels: int) -> list[list[int]] | None:
    """The places of a patch that each level spells; None where some level would have too many
    or none."""
    spans = [part.tolist() for part in np.array_split(np.arange(patch_bytes), levels)]
    return spans if all(1 <= len(span) <= LONGEST_SPAN for span in spans) else None


def frequent_spans(patches: Tensor, span: list[int], count: int) -> Tensor:
    """Patches that hold one frequent span each and PAD elsewhere, the most frequent first.

    Spans that never occur follow those that do, the likeliest first if bytes were independent.
    Every process brings its own patches and gets the same answer.

    Args:
        patches: int64 [N, P]; where a span touches PAD it does not count.
        span: places in the patch.
        count: how many are wanted.

    Returns:
        int64 [min(count, 256 ** len(span)), P].
    """
    columns = patches[:, span]
    columns = columns[(columns < PAD).all(1)]
    weights = PAD ** torch.arange(len(span) - 1, -1, -1, device=patches.device)
    counts = torch.bincount((columns * weights).sum(1), minlength=PAD ** len(span)).double()
    sum_over_ranks([counts])
    table = counts.view([PAD] * len(span))
    likely = torch.ones_like(table)
    for axis in range(len(span)):
        others = [other for other in range(len(span)) if other != axis]
        share = table.sum(others) if others else table
        # no byte is impossible
        share = (share + 1) / (share.sum() + PAD)
        likely = likely * share.view([-1 if other == axis else 1 for other in range(len(span))])
    best = (table + likely).flatten().topk(min(count, table.numel())).indices
    rows = patches.new_full((best.shape[0], patches.shape[1]), PAD)
    rows[:, span] = best[:, None] // weights % PAD
    return rows


def spell(
    codebooks: Iterable[Codebook],
    spans: list[list[int]],
    patches: Tensor,
    encoder: Callable[[Tensor], Tensor],
) -> None:
    """Starts every level on the latents of its frequent spans.

    Args:
        codebooks: those of a residual quantizer.
        spans: from `level_spans`.
        patches: int64 [N, P], the text to count in.
        encoder: patches [n, P] to latents [n, 1, D], a sum over the places of the patch.
    """
    silence = encoder(patches.new_full((1, patches.shape[1]), PAD))[:, 0].float()
    mine = None if is_first_rank() else 0  # every process has the same rows; one brings them
    for level, (span, codebook) in enumerate(zip(spans, codebooks, strict=True)):
        rows = frequent_spans(patches, span, codebook.codebook_size)
        latents = encoder(rows)[:, 0].float()
        # no more rows than codes, and those once: k-means takes them as they are
        codebook.initialize((latents - silence if level else latents)[:mine])
