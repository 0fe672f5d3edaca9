"""Small streams, vocabularies and templates that the layout tests share."""

import numpy as np
from hypothesis import strategies as st

from vqtok.layout import SequenceLayout, Stream, VocabLayout

IMAGE_FP, AUDIO_FP = "1a" * 32, "2b" * 32
SPECIALS = ("bos", "eos", "pad", "boi", "eoi", "boa", "eoa", "eol", "null")
# at most five text ids before everything else, so that ids of text and codes are easily confused
TEXT_SIZE = 5

# name -> (template, patterns, grids)
TEMPLATES = {
    "class_image": ("<bos>{class}{height}{width}<boi>{image}<eoi><eos>", {}, {}),
    "column": ("<bos>{height}{width}{image}<eos>", {"image": "column"}, {}),
    "fixed": ("<bos><boi>{image}<eoi>", {}, {"image": (2, 3)}),
    "rows": ("<bos><boi>{image}<eoi><eos>", {"image": "raster_rows"}, {}),
    "sized_rows": ("<bos>{height}{width}{image}<eoi>", {"image": "raster_rows"}, {}),
    "text_to_image": ("<bos>{text}<boi>{height}{width}{image}<eoi><eos>", {}, {}),
    "text_to_audio": ("<bos>{text}<boa>{audio}<eoa><eos>", {"audio": "frame"}, {}),
    "coarse": ("{class}<boa>{audio}<eos>", {"audio": "coarse_first"}, {}),
    "delay_flat": ("<bos><boa>{audio}<eoa>", {"audio": "delay_flat"}, {}),
    "moshi": (
        "<boa>{audio}<eoa>",
        {"audio": {"name": "delay_flat", "delays": [0, 1, 1]}},
        {},
    ),
    "length": ("<bos>{length}{audio}<eos>", {"audio": "delay_flat"}, {}),
    "both": (
        "<bos>{image}<eoi>{length}<boa>{audio}<eos>",
        {"image": "raster_rows", "audio": "coarse_first"},
        {},
    ),
}


def vocabulary(pad_to=1, levels=2):
    streams = [
        Stream("image", (7, 5)[:levels], IMAGE_FP, "me/image", "image"),
        Stream("audio", (4, 6, 3), AUDIO_FP, "me/audio", "audio"),
    ]
    return VocabLayout.build(
        streams,
        text=text_of(TEXT_SIZE),
        specials=SPECIALS,
        labels={"class": 3},
        sizes={"height": 4, "width": 4, "length": 6},
        pad_to=pad_to,
    )


def text_of(size):
    from vqtok.layout import TextVocabulary

    return TextVocabulary("me/text", size, "3c" * 32)


def layout_of(name, vocab=None):
    template, patterns, grids = TEMPLATES[name]
    return SequenceLayout(vocab or vocabulary(), template, patterns=patterns, grids=grids)


def codes(rng, stream, grid):
    """Random codes [Q, *grid] of a stream, as a mapping that layouts take."""
    levels = [rng.integers(0, size, grid) for size in stream.codebook_sizes]
    return {"codes": np.stack(levels), "fingerprint": stream.fingerprint}


def random_row(rng, layout, grids=None):
    """A row that fills the template at random; `grids` says sizes of streams."""
    row = {}
    for part in layout.parts:
        if part.kind == "text":
            row["text"] = rng.integers(0, TEXT_SIZE, rng.integers(0, 4)).tolist()
        elif part.kind == "label" and not part.stream:
            row[part.name] = [None, 0, 1, 2][rng.integers(0, 4)]
        elif part.kind == "codes":
            axes = 2 if part.name == "image" else 1
            grid = part.grid or (grids or {}).get(part.name)
            grid = grid or tuple(rng.integers(1, 5, axes))
            row[part.name] = codes(rng, layout.vocab.stream(part.name), grid)
    return row


def same_parts(row, parts):
    """Whether decoded parts are what was encoded."""
    for name, value in row.items():
        found = parts[name]
        if name == "text":
            if list(found) != list(value):
                return False
        elif isinstance(value, dict):
            if not np.array_equal(found.codes.numpy(), value["codes"]):
                return False
        elif found != value:
            return False
    return True


template_names = st.sampled_from(sorted(TEMPLATES))
seeds = st.integers(0, 2**32 - 1)
