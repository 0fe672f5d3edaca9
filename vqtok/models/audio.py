"""Anything that holds a sound to one form: float32 [C, T] and its sample rate.

    path, bytes, (waveform, rate), {"bytes", "path"}, {"array", "sampling_rate"} ──▶ [C, T], rate

Files are read by libsndfile (wav, flac, ogg, opus, mp3), whole. Integers become floats in [-1, 1).
Channels are never mixed or doubled: a stereo file for a mono tokenizer is an error that says so.
"""

import io
import os
from collections.abc import Mapping
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

Waveform = np.ndarray | Tensor


def read_audio(item: Any) -> tuple[np.ndarray, int]:
    """Any sound to float32 [C, T] and its sample rate in Hz.

    Args:
        item: a path; the bytes of a file; an open binary file; (waveform, sample_rate_hz) with a
            waveform [T] or [C, T], float in about [-1, 1], int16, int32 or uint8; a dict with
            "array" and "sampling_rate", or with "bytes" or "path", as `datasets.Audio` gives.

    Raises:
        InputError: no sound; `.status` is decode_error, empty or nonfinite.
    """
    name = sound_name(item)
    waveform, rate = _open(item, name)
    if waveform.size == 0:
        raise InputError(f"{name} has no samples: zero length.", status="empty")
    if not np.isfinite(waveform).all():
        raise InputError(f"{name} holds NaN or infinity.", status="nonfinite")
    return waveform, rate


def read_waveform(item: Any, sample_rate_hz: int, channels: int) -> Tensor:
    """Any sound as a tokenizer wants it: float32 [channels, T] at `sample_rate_hz`.

    Raises:
        InputError: as `read_audio`, or the sound has another number of channels.
    """
    waveform, rate = read_audio(item)
    if len(waveform) != channels:
        raise InputError(
            f"{sound_name(item)} has {len(waveform)} channels, this tokenizer takes {channels}: "
            + ("pass one channel, or their mean." if channels == 1 else "pass them together.")
        )
    return resample(torch.from_numpy(waveform), rate, sample_rate_hz)


def resample(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """[..., T] at one rate to ceil(T * to / from) samples at another; windowed sinc."""
    ratio = Fraction(to_hz, from_hz).limit_denominator(MAX_DENOMINATOR)
    if ratio == 1 or not ratio:
        return waveform
    from torchaudio.functional import resample as sinc_resample

    return sinc_resample(waveform, ratio.denominator, ratio.numerator)


def sound_name(item: Any) -> str:
    """How an error calls the item."""
    if isinstance(item, Mapping):
        return str(item.get("path") or "this sound")
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    return str(getattr(item, "name", "") or "this sound")


def _open(item: Any, name: str) -> tuple[np.ndarray, int]:
    if isinstance(item, Mapping):
        return _open_dict(item, name)
    if isinstance(item, (str, os.PathLike)):
        try:
            with open(item, "rb") as file:
                return _decode(file, name)
        except OSError as error:
            raise InputError(f"{name} cannot be opened: {error}.") from error
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(item), name)
    if hasattr(item, "read"):
        return _decode(item, name)
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return _from_array(item[0], item[1], name)
    raise InputError(
        "a sound is a path, bytes, an open file, (waveform, sample_rate_hz), or a dict with "
        f'"array" and "sampling_rate", "bytes" or "path"; got a {type(item).__name__}. '
        "A waveform alone has no sample rate; tensors [B, C, T] go to encode()."
    )


def _open_dict(item: Mapping, name: str) -> tuple[np.ndarray, int]:
    if item.get("array") is not None:
        return _from_array(item["array"], item.get("sampling_rate"), name)
    content = item["bytes"] if item.get("bytes") is not None else item.get("path")
    if content is None:
        raise InputError(
            f'{name}: a dict wants "array" and "sampling_rate", "bytes", or "path"; it has '
            f"{sorted(map(str, item))[:10]}."
        )
    return _open(content, name)


def _decode(file: Any, name: str) -> tuple[np.ndarray, int]:
    """An open file through libsndfile."""
    import soundfile

    try:
        start = file.tell()
        if not file.read(1):
            raise InputError(f"{name} is empty: 0 bytes.", status="empty")
        file.seek(start)
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name} cannot be read as a sound: {error} "
            "Is the file complete, and is it wav, flac, ogg, opus or mp3?"
        ) from error
    return np.ascontiguousarray(samples.T), rate


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
