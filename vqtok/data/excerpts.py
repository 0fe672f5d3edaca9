"""Long sounds cut to a few seconds from their middle, for measurements that need no more."""

import io
from collections.abc import Iterator, Sequence

from vqtok.data.sources import RawSample, Segment, Source

EXCERPT_SECONDS = 5


class Excerpts:
    """What a worker reads of a source, with its sounds cut; other inputs come as they are.

    Args:
        source: of any modality.
    """

    def __init__(self, source: Source):
        self.source = source

    def read(self, segments: Sequence[Segment]) -> Iterator[RawSample]:
        for sample in self.source.read(segments):
            if self.source.modality == "audio" and isinstance(sample.data, bytes):
                sample.data = excerpt(sample.data)
            yield sample

    def close(self) -> None:
        self.source.close()


def excerpt(data: bytes) -> bytes:
    """The middle of a sound as a WAV file; the sound itself if it is short, or cannot be read."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames = EXCERPT_SECONDS * file.samplerate
            if file.frames <= frames:
                return data
            file.seek((file.frames - frames) // 2)
            samples = file.read(frames, dtype="float32", always_2d=True)
            rate = file.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError):
        return data  # the tokenizer will say what is wrong with it
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype="FLOAT")
    return out.getvalue()
