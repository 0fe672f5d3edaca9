"""Streams through the codec: samples come, codes go, and the other way around.

A causal codec gives the codes of every hop as soon as the hop is there; one that looks ahead holds
the last hops back until `flush`. Memory does not grow with the length of the stream.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional as F

from vqtok.errors import ShapeError, VqtokError
from vqtok.models.base import VQTokenizerModel


class Stream(AbstractContextManager):
    """Base: what carries over from one piece to the next, and what is allowed when.

    `push` and `flush` run the codec as `tokenize` does, exactly and without gradients; pieces may
    lie on any device. Left as a context, a stream forgets its state and is over. Several may run
    side by side, also in threads, as long as nobody changes the model.

    Args:
        model: an RVQ codec.
    """

    takes: str  # the axes of a piece, for errors

    def __init__(self, model: VQTokenizerModel):
        self.model = model
        self._state = None
        self._batch: list[int] | None = None  # the first two axes of every piece
        self._over = ""

    def __exit__(self, *error) -> None:
        self._state, self._over = None, self._over or "closed"

    def push(self, piece: Tensor) -> Tensor | None:
        """The next piece, of any length; what is now certain, or None.

        Raises:
            ShapeError: not a piece, or one of another batch.
            VqtokError: the stream is over.
        """
        self._check_open()
        self._check_batch(piece)
        if piece.shape[-1] == 0:
            return None
        self._check_piece(piece)
        self._batch = list(piece.shape[:2])
        with self.model.inference():
            return self.advance(piece.to(self.model.device), last=False)

    def flush(self) -> Tensor | None:
        """The signal ends: what was held back, or None. Nothing can be pushed after it.

        Raises:
            VqtokError: nothing was pushed, or the stream is over.
        """
        self._check_open()
        if self._batch is None:
            raise VqtokError("this stream is empty: push something before flush.")
        self._over = "flushed"
        with self.model.inference():
            return self.advance(None, last=True)

    def all_of(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Everything that comes out of a whole signal; runs as it is called, unlike `push`.

        Args:
            pieces: not empty, on the model's device, of one batch.
        """
        for piece, last in with_last(pieces):
            output = self.advance(piece, last)
            if output is not None:
                yield output

    def advance(self, piece: Tensor | None, last: bool) -> Tensor | None:
        """The next piece as it is, unchecked; None: nothing but the end of the signal."""
        raise NotImplementedError(f"{type(self).__name__} must define advance.")

    def _check_piece(self, piece: Tensor) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _check_piece.")

    def _check_open(self) -> None:
        if self._over:
            raise VqtokError(f"this stream was {self._over}: open another one.")

    def _check_batch(self, piece: Tensor) -> None:
        if piece.ndim != 3 or self._batch not in (None, list(piece.shape[:2])):
            so_far = f", here {self._batch}" if self._batch else ""
            raise ShapeError(
                f"a stream takes {self.takes}, the first two axes the same in every push"
                f"{so_far}; got {list(piece.shape)}."
            )


class CodeStream(Stream):
    """Samples [B, C, t] to codes [B, q, n]."""

    takes = "samples [B, C, t]"

    def __init__(self, model: VQTokenizerModel, num_codebooks: int | None):
        super().__init__(model)
        self.num_codebooks = model.quantizer.active_codebooks(num_codebooks)
        self.samples = 0  # that came so far

    def advance(self, piece: Tensor | None, last: bool) -> Tensor | None:
        model = self.model
        if piece is not None:
            self.samples += piece.shape[-1]
            piece = piece.to(model.dtype)
        missing = -self.samples % model.hop if last else 0
        if missing and piece is None:
            piece = torch.zeros(*self._batch, missing, dtype=model.dtype, device=model.device)
        elif missing:
            piece = F.pad(piece, (0, missing))
        steps = None if piece is None else piece.transpose(1, 2)
        latents, self._state = model.encoder.paths.step(steps, self._state, last)
        if latents is None:
            return None
        return model.quantizer.encode(latents, self.num_codebooks).movedim(-1, 1)

    def _check_piece(self, piece: Tensor) -> None:
        self.model._check_inputs(piece)


class SampleStream(Stream):
    """Codes [B, q, n] to samples [B, C, t]."""

    takes = "codes [B, q, n]"

    def advance(self, piece: Tensor | None, last: bool) -> Tensor | None:
        model, latents = self.model, None
        if piece is not None:
            latents = model.quantizer.decode(piece.movedim(1, -1)).to(model.dtype)
        samples, self._state = model.decoder.paths.step(latents, self._state, last)
        return None if samples is None else samples.transpose(1, 2)

    def _check_piece(self, piece: Tensor) -> None:
        # the range is looked at before the codes leave the CPU: a device would only crash
        self.model.quantizer.check_codes(piece.movedim(1, -1))


def with_last(pieces: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Every piece, and whether it is the last one."""
    iterator = iter(pieces)
    held = next(iterator)
    for piece in iterator:
        yield held, False
        held = piece
    yield held, True


def fixed_windows(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Pieces [..., t] of any lengths, cut again to `size` each; the last may be shorter."""
    waiting: list[Tensor] = []
    for piece in pieces:
        while piece.shape[-1]:
            room = size - sum(part.shape[-1] for part in waiting)
            # a copy: a window must not hold on to a whole piece
            waiting.append(piece[..., :room].clone())
            piece = piece[..., room:]
            if sum(part.shape[-1] for part in waiting) == size:
                yield torch.cat(waiting, -1)
                waiting = []
    if waiting:
        yield torch.cat(waiting, -1)
