"""New positions for codes that hardly anyone uses.

K codes, D width, n dead codes, M candidate vectors. Pure functions of tensors that all ranks share;
the random numbers come from torch's global CPU generator, so callers run them on one rank.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vqtok.quantizers.kmeans import jitter


@dataclass
class Revival:
    """What to write where: rows `index` of the codes and of their usage counts.

    `index` [n] int64, `codes` [n, D], `counts` [n].
    """

    index: Tensor
    codes: Tensor
    counts: Tensor


def redraw(dead: Tensor, codes: Tensor, counts: Tensor, candidates: Tensor) -> Revival:
    """Puts dead codes [n] onto different recent vectors [M, D], with an average code's count.

    With fewer candidates than dead codes the rest waits for the next call: two codes on one vector
    would only let one of them die again.
    """
    dead = dead[: candidates.shape[0]]
    picks = torch.randperm(candidates.shape[0])[: dead.shape[0]].to(codes.device)
    return Revival(dead, candidates[picks], counts.mean().expand(dead.shape[0]))


def split(dead: Tensor, codes: Tensor, counts: Tensor, candidates: Tensor) -> Revival:
    """Puts dead codes [n] beside the most used ones and halves the count with each.

    Only codes used more than average are split; with fewer of them the rest waits. `candidates`
    are not needed. Source: Linde, Buzo, Gray 1980 (LBG splitting).
    """
    num_busy = int((counts > counts.mean()).sum())
    busy = counts.argsort(descending=True)[:num_busy]
    dead, parents = dead[:num_busy], busy[: dead.shape[0]]
    # the spread of busy codes only: dead ones may be anywhere
    children = codes[parents] + jitter(codes[busy], dead.shape[0])
    halves = counts[parents] / 2
    return Revival(
        torch.cat([dead, parents]), torch.cat([children, codes[parents]]), halves.repeat(2)
    )


REVIVALS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Revival]] = {
    "random": redraw,
    "split": split,
}


def thinned(rows: Tensor, limit: int) -> Tensor:
    """At most `limit` of the rows [N, D], spread over all of them, with no random number.

    The step is near the golden section of N: unlike an even step it never falls in line with
    the width of an image, which would keep one column of every picture.
    """
    total = rows.shape[0]
    if total <= limit:
        return rows
    step = round(total * 0.6180339887)
    while math.gcd(step, total) > 1:
        step += 1
    return rows[torch.arange(limit, device=rows.device) * step % total]
