"""Anything that holds a sound to one form: float32 [C, T] and its sample rate.

    path, bytes, (waveform, rate), {"bytes", "path"}, {"array", "sampling_rate"} ──▶ [C, T], rate

Files are read by libsndfile (wav, flac, ogg, opus, mp3). Integers become floats in [-1, 1).
Channels are never mixed or doubled: a stereo file for a mono tokenizer is an error that says so.
"""

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtok.errors import InputError

# part of every fingerprint: change it when a sound comes out of here differently
READING = "libsndfile, float32, torchaudio sinc resampling, version 1"
MAX_CHANNELS = 32
MAX_RATE_HZ = 10_000_000
# an odd ratio such as 24000:44101 is rounded to this denominator, or its filters fill the memory;
# the usual rates are far below, and the drift is less than a millisecond an hour
MAX_DENOMINATOR = 2000
FILTER_REACH = 7  # samples of the lower rate; torchaudio's default filter reaches 6
BLOCK_SAMPLES = 2**20  # of a file that are read together: 22 seconds at 48 kHz

Waveform = np.ndarray | Tensor


@dataclass(frozen=True)
class SoundSource:
    """A sound that is open for reading.

    Attributes:
        name: what an error calls it.
        pieces: a number of samples, or -1 for all of them at once, to float32 [C, t] in order.
    """

    name: str
    channels: int
    sample_rate_hz: int
    pieces: Callable[[int], Iterator[np.ndarray]]


@contextmanager
def open_sound(item: Any) -> Iterator[SoundSource]:
    """Any sound, opened but not yet read; `read_audio` lists what counts as one.

    Raises:
        InputError: no sound, here or while its pieces are read.
    """
    name = sound_name(item)
    content = _content(item, name)
    if isinstance(content, tuple):
        array, rate = _from_array(*content, name)
        yield SoundSource(name, len(array), rate, lambda count: _slices(array, count))
        return
    import soundfile

    with ExitStack() as stack:
        if isinstance(content, (str, os.PathLike)):
            try:
                content = stack.enter_context(open(content, "rb"))
            except OSError as error:
                raise InputError(f"{name} cannot be opened: {error}.") from error
        with _decoding(name):
            _check_whole(content, name)
            file = stack.enter_context(soundfile.SoundFile(content))
        yield SoundSource(
            name, file.channels, file.samplerate, lambda count: _file_pieces(file, name, count)
        )


def read_audio(item: Any) -> tuple[np.ndarray, int]:
    """Any sound to float32 [C, T] and its sample rate in Hz.

    Args:
        item: a path; the bytes of a file; an open binary file; (waveform, sample_rate_hz) with a
            waveform [T] or [C, T], float in about [-1, 1], int16, int32 or uint8; a dict with
            "array" and "sampling_rate", or with "bytes" or "path", as `datasets.Audio` gives.

    Raises:
        InputError: no sound; `.status` is decode_error, empty or nonfinite.
    """
    with open_sound(item) as sound:
        waveform = next(checked_pieces(sound, -1))
    return waveform, sound.sample_rate_hz


def read_waveform(item: Any, sample_rate_hz: int, channels: int) -> Tensor:
    """Any sound as a tokenizer wants it: float32 [channels, T] at `sample_rate_hz`.

    Raises:
        InputError: as `read_audio`, or the sound has another number of channels.
    """
    blocks = list(read_blocks(item, sample_rate_hz, channels))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, -1)


def read_blocks(item: Any, sample_rate_hz: int, channels: int) -> Iterator[Tensor]:
    """The same piece by piece, in memory that does not grow with the length of the sound.

    Yields:
        float32 [channels, t], one after the other in time.
    """
    with open_sound(item) as sound:
        if sound.channels != channels:
            raise InputError(
                f"{sound.name} has {sound.channels} channels, this tokenizer takes {channels}: "
                + ("pass one channel, or their mean." if channels == 1 else "pass them together.")
            )
        pieces = checked_pieces(sound, BLOCK_SAMPLES)
        yield from resample_pieces(
            map(torch.from_numpy, pieces), sound.sample_rate_hz, sample_rate_hz
        )


def checked_pieces(sound: SoundSource, count: int) -> Iterator[np.ndarray]:
    """Pieces of which at least one comes, and all are finite."""
    found = False
    for piece in sound.pieces(count):
        if piece.size == 0:
            continue
        if not np.isfinite(piece).all():
            raise InputError(f"{sound.name} holds NaN or infinity.", status="nonfinite")
        found = True
        yield piece
    if not found:
        raise InputError(f"{sound.name} has no samples: zero length.", status="empty")


def resample(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """[..., T] at one rate to ceil(T * to / from) samples at another; windowed sinc."""
    ratio = resampling_ratio(from_hz, to_hz)
    if ratio == 1:
        return waveform
    from torchaudio.functional import resample as sinc_resample

    return sinc_resample(waveform, ratio.denominator, ratio.numerator)


def resample_pieces(pieces: Iterable[Tensor], from_hz: int, to_hz: int) -> Iterator[Tensor]:
    """`resample` of a sound that comes in pieces [C, t]: the same samples, piece by piece."""
    ratio = resampling_ratio(from_hz, to_hz)
    if ratio == 1:
        yield from pieces
        return
    # the filter reaches 6 samples of the lower rate, and then one step of the ratio, to each side
    step, out = ratio.denominator, ratio.numerator
    context = math.ceil(FILTER_REACH * max(1, from_hz / to_hz) / step) + 1  # in steps
    held, before = None, 0  # samples not yet done with, steps at their start that are
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece], -1)
        ready = held.shape[-1] // step - before - context  # steps whose future is there
        if ready > 0:
            yield resample(held, from_hz, to_hz)[:, before * out : (before + ready) * out]
            keep = min(context, before + ready)
            held, before = held[:, (before + ready - keep) * step :], keep
    if held is not None:
        yield resample(held, from_hz, to_hz)[:, before * out :]


def resampling_ratio(from_hz: int, to_hz: int) -> Fraction:
    """to / from, in numbers small enough for a filter; 1 where they are as good as equal."""
    return Fraction(to_hz, from_hz).limit_denominator(MAX_DENOMINATOR) or Fraction(1)


def integer_sounds(samples: int, channels: int) -> Tensor:
    """Two sounds made of integers, float32 [2, channels, samples]: for canaries, because no
    library draws them differently."""
    n = torch.arange(samples)
    sounds = torch.stack([n * n % 2003 - 1001, n * 37 % 1009 - 504])
    return (sounds.float() / 2048)[:, None].repeat(1, channels, 1)


def sound_name(item: Any) -> str:
    """How an error calls the item."""
    if isinstance(item, Mapping):
        return str(item.get("path") or "this sound")
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    return str(getattr(item, "name", "") or "this sound")


def _content(item: Any, name: str) -> Any:
    """What is to be read: (waveform, rate), a path, or an open binary file."""
    if isinstance(item, Mapping):
        return _dict_content(item, name)
    if isinstance(item, (str, os.PathLike)) or hasattr(item, "read"):
        return item
    if isinstance(item, (bytes, bytearray, memoryview)):
        return io.BytesIO(item)
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return tuple(item)
    raise InputError(
        "a sound is a path, bytes, an open file, (waveform, sample_rate_hz), or a dict with "
        f'"array" and "sampling_rate", "bytes" or "path"; got a {type(item).__name__}. '
        "A waveform alone has no sample rate; tensors [B, C, T] go to encode()."
    )


def _dict_content(item: Mapping, name: str) -> Any:
    if item.get("array") is not None:
        return item["array"], item.get("sampling_rate")
    content = item["bytes"] if item.get("bytes") is not None else item.get("path")
    if content is None:
        raise InputError(
            f'{name}: a dict wants "array" and "sampling_rate", "bytes", or "path"; it has '
            f"{sorted(map(str, item))[:10]}."
        )
    return _content(content, name)


def _check_whole(file: Any, name: str) -> None:
    """Refuses an empty file, and a WAV that is shorter than its header says: libsndfile reads what
    is there without a word. The file stays where it is."""
    start = file.tell()
    head = file.read(8)
    if not head:
        raise InputError(f"{name} is empty: 0 bytes.", status="empty")
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    told = int.from_bytes(head[4:], "little") + 8
    # writers that cannot go back to the header leave the largest numbers in it
    if head[:4] == b"RIFF" and size + 8 < told < 2**31 - 4096:
        raise InputError(f"{name} is cut off: its header tells of {told} bytes, {size} are there.")


def _slices(array: np.ndarray, count: int) -> Iterator[np.ndarray]:
    count = array.shape[1] if count < 0 else count
    for start in range(0, array.shape[1], max(count, 1)):
        yield array[:, start : start + count]


def _file_pieces(file: Any, name: str, count: int) -> Iterator[np.ndarray]:
    """float32 [C, t] of an open soundfile.SoundFile, until nothing comes any more."""
    while True:
        with _decoding(name):
            samples = file.read(count, dtype="float32", always_2d=True)
        if not len(samples):
            return
        yield np.ascontiguousarray(samples.T)
        if count < 0:
            return


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever libsndfile says, as an InputError that names the sound."""
    import soundfile

    try:
        yield
    except InputError:
        raise
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} cannot be read as a sound: {error} "
            "Is the file complete, and is it wav, flac, ogg, opus or mp3?"
        ) from error


def _from_array(waveform: Any, rate: Any, name: str) -> tuple[np.ndarray, int]:
    """A waveform [T] or [C, T] of numbers."""
    whole = isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool)
    if not whole or not 0 < rate <= MAX_RATE_HZ or int(rate) != rate:
        raise InputError(f"{name}: a sample rate is a whole number of Hz; got {rate!r}.")
    if isinstance(waveform, Tensor):
        waveform = waveform.detach().to(
            "cpu", torch.float32 if waveform.is_floating_point() else None
        )
    try:
        array = np.asarray(waveform)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: a waveform is an array [T] or [C, T]: {error}.") from error
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or len(array) > MAX_CHANNELS:
        raise InputError(
            f"{name}: a waveform is [T] or [C, T], channels first, with at most {MAX_CHANNELS} "
            f"channels; got {list(array.shape)}. For [T, C], pass waveform.T."
        )
    return _to_float(array, name), int(rate)


def _to_float(array: np.ndarray, name: str) -> np.ndarray:
    """Floats as they are, PCM integers over their range; always a copy of its own or read only."""
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # a float64 beyond float32 is found as infinity
            return np.array(array, dtype=np.float32, order="C")
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype in (np.int16, np.int32):
        scale = float(-np.iinfo(array.dtype).min)
        return (array.astype(np.float64) / scale).astype(np.float32)
    raise InputError(
        f"{name} holds {array.dtype}; a waveform holds floats in about [-1, 1], int16, int32 or "
        "uint8 (8-bit PCM)."
    )
