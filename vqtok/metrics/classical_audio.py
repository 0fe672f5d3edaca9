"""Opus at the bit rate of the codes, through ffmpeg: what an audio tokenizer is measured beside.

Constant bit rate (`-vbr off`). ffmpeg drops the encoder's delay and keeps the length, so what comes
back lies sample by sample under what went in. Source: RFC 6716 (Opus), RFC 7845 (Opus in Ogg).
"""

import shutil
import subprocess

import numpy as np

from vqtok.errors import ConfigError, FormatError, ShapeError

OGG_HEADER = 27  # bytes of a page before its table of segments
OPUS_PAGES = 2  # that hold no sound: OpusHead and OpusTags
FRAMES_PER_SECOND = 50
MAX_CHANNELS = 2
MIN_BITRATE_BPS = 500  # libopus refuses less
MAX_BITRATE_BPS = 256_000  # a channel


def why_no_opus() -> str:
    """Why sounds cannot be coded with Opus here; empty if they can."""
    if shutil.which("ffmpeg") is None:
        return "not installed: there is no ffmpeg on the PATH"
    found = _ffmpeg("-encoders").stdout.decode(errors="replace")
    return "" if "libopus" in found else "not installed: this ffmpeg has no libopus"


def opus_round_trip(
    waveform: np.ndarray, sample_rate_hz: int, bitrate_bps: float
) -> tuple[np.ndarray, int]:
    """Through Opus and back.

    Args:
        waveform: float32 [C, T] in [-1, 1], C of 1 or 2.
        sample_rate_hz: any; Opus itself works at 8 to 48 kHz.
        bitrate_bps: of all channels together. Opus may take more than a very low one.

    Returns:
        float32 [C, T] at the same rate, and the bytes of the Opus packets alone, without the Ogg
        around them.

    Raises:
        ConfigError: there is no ffmpeg with libopus, or it failed.
        ShapeError: more than two channels.
    """
    if reason := why_no_opus():
        raise ConfigError(f"Opus is {reason}.")
    if waveform.ndim != 2 or not 1 <= len(waveform) <= MAX_CHANNELS or not waveform.size:
        raise ShapeError(f"Opus takes [C, T] with 1 or 2 channels; got {list(waveform.shape)}.")
    channels, samples = waveform.shape
    rate = min(max(round(bitrate_bps), MIN_BITRATE_BPS), MAX_BITRATE_BPS * channels)
    pcm = ("-f", "f32le", "-ar", str(sample_rate_hz), "-ac", str(channels))
    options = ("-c:a", "libopus", "-b:a", str(rate), "-vbr", "off", "-f", "ogg")
    least = -(-sample_rate_hz // FRAMES_PER_SECOND)
    raw = np.pad(waveform, ((0, 0), (0, max(0, least - samples)))).T
    raw = np.ascontiguousarray(raw, dtype="<f4").tobytes()
    packed = _ffmpeg(*pcm, "-i", "pipe:0", *options, "pipe:1", data=raw).stdout
    back = _ffmpeg("-f", "ogg", "-i", "pipe:0", *pcm, "pipe:1", data=packed).stdout
    decoded = np.frombuffer(back, "<f4").reshape(-1, channels).T[:, :samples]
    missing = max(0, samples - decoded.shape[1])
    return np.pad(decoded, ((0, 0), (0, missing))), packet_bytes(packed)


def packet_bytes(ogg: bytes) -> int:
    """Bytes of the sound's packets in an Ogg file of one Opus stream."""
    place, page, total = 0, 0, 0
    while place < len(ogg):
        if ogg[place : place + 4] != b"OggS":
            raise FormatError(f"an Ogg page should begin at byte {place} of {len(ogg)}.")
        segments = ogg[place + OGG_HEADER - 1]
        start = place + OGG_HEADER
        size = sum(ogg[start : start + segments])
        total += size if page >= OPUS_PAGES else 0
        place, page = start + segments + size, page + 1
    return total


def _ffmpeg(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess:
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        raise ConfigError(f"ffmpeg failed: {done.stderr.decode(errors='replace').strip()}")
    return done
