"""Text, pictures and sound by the bundled tokenizers, in one vocabulary: there and back again.

Everything goes as a user would do it: three runs of one table with `vqtok tokenize`, one layout,
exports that independent readers read, ids back to codes, codes back to raw items.
"""

import dataclasses
import io
import itertools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from tests.layout.priors import tiny_llama
from tests.layout.readers import READERS
from tests.layout.test_export import real_reader
from vqtok import AutoVQTokenizer, VQTokens
from vqtok.cli import app
from vqtok.data import open_run
from vqtok.layout import Layout, SequenceLayout, Stream, VocabLayout, join_rows

SAMPLES = Path(__file__).parents[2] / "vqtok/samples"
PHOTOS = ("astronaut", "camera", "chelsea", "coffee")
LEVELS = 3  # of the codec's 8: its beam search takes as long as the rest together
# stream -> (tokenizer, column of the table)
TOKENIZERS = {
    "image": ("vqtok/vim-vq-tiny", "image"),
    "audio": ("vqtok/rvq-codec-tiny", "audio"),
    "words": ("vqtok/text-vq-tiny", "caption"),
}
ALONE = {
    "photo": "<bos>{class}<boi>{height}{width}{image}<eoi><eos>",
    "sound": "<bos><boa>{audio}<eoa><eos>",
}
# text as codes of the bundled tokenizer, and as ids of a text tokenizer of transformers
VARIANTS = {
    "codes": ALONE
    | {
        "prose": "<bos><bot>{words}<eot><eos>",
        "t2i": "<bos><bot>{words}<eot><boi>{image}<eoi><eos>",
        "t2a": "<bos><bot>{words}<eot><boa>{length}{audio}<eoa><eos>",
        "scene": "<bos>{class}{height}{width}{image}<bot>{words}<eot>{audio}<eoa><eos>",
    },
    "bpe": ALONE
    | {
        "t2i": "<bos><bot>{text}<eot><boi>{height}{width}{image}<eoi><eos>",
        "t2a": "<bos><bot>{text}<eot><boa>{audio}<eoa><eos>",
    },
}
USED = {"codes": ["photo", "sound", "prose", "t2i", "t2a", "scene"], "bpe": ["t2i", "t2a"]}


def vqtok(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


def table() -> pa.Table:
    """Small photos, cuttings of speech and captions of all sizes; a photo and a caption are bad."""
    play = (SAMPLES / "shakespeare.txt").read_text()
    speech, rate = soundfile.read(SAMPLES / "speech.flac")
    photos, sounds = [], []
    for index, name in enumerate(PHOTOS):
        with Image.open(SAMPLES / f"{name}.jpg") as photo:
            photos.append(encoded(photo.resize((33 + 9 * index, 50 - 8 * index))))
        start = 8_000 * index
        out = io.BytesIO()
        soundfile.write(out, speech[start : start + 2_000 + 555 * index], rate, format="FLAC")
        sounds.append(out.getvalue())
    captions = [play[90 * i : 90 * i + 40 + 7 * i] for i in range(len(PHOTOS) - 1)]
    captions.append("Grüße, 世界 🙂\n\t<bos> \r\n")
    return pa.table(
        {
            "image": [*photos, b"no photo", photos[0]],
            "audio": [*sounds, sounds[0], sounds[1]],
            "caption": [*captions, "a bad photo", ""],
            "label": [0, 1, 2, 1, 0, 2],
        }
    )


def encoded(photo: Image.Image) -> bytes:
    out = io.BytesIO()
    photo.save(out, "PNG")
    return out.getvalue()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 ids, with bos, eos and pad of its own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([(SAMPLES / "shakespeare.txt").read_text()], trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with three runs and a layout for each variant."""
    root = tmp_path_factory.mktemp("three")
    pq.write_table(table(), root / "source.parquet")
    for stream, (tokenizer, column) in TOKENIZERS.items():
        levels = ["--num-codebooks", LEVELS] if stream == "audio" else []
        vqtok(
            "tokenize", root / "source.parquet", "-t", tokenizer, "-o", root / stream,
            "--column", column, "--keep", "label" if column == "caption" else "label,caption",
            *levels,
        )  # fmt: skip
    byte_tokenizer().save_pretrained(root / "bpe")
    for variant, templates in VARIANTS.items():
        words = [f"--template={name}={text}" for name, text in templates.items()]
        runs = [f"--run={stream}={root / stream}" for stream in streams_of(variant)]
        text = ["--text", root / "bpe"] if variant == "bpe" else []
        vqtok(
            "layout", *runs, *words, *text, "--label", "class=3", "--pattern", "audio=delay_flat",
            "--special", "null", "--pad-to", 128, "--out", root / variant / "layout",
        )  # fmt: skip
    return root


def streams_of(variant: str) -> list[str]:
    return ["image", "audio"] if variant == "bpe" else list(TOKENIZERS)


def export(root: Path, variant: str, out: Path, to: str, *options):
    """`vqtok export` of all templates, the report, and every sequence with its key."""
    text = ["--text", root / "bpe"] if variant == "bpe" else []
    columns = ["class=label"] if variant == "codes" else ["text=caption"]
    done = vqtok(
        "export", *(root / stream for stream in streams_of(variant)), "--to", to, "--out", out,
        "--layout", root / variant / "layout", "--val-fraction", 0, "--json", *text, *options,
        *(f"--template={name}" for name in USED[variant]),
        *(f"--column={column}" for column in columns),
    )  # fmt: skip
    return json.loads(done.stdout), read_back(out, READERS[to](out, "train"))


def read_back(out: Path, rows: list) -> list[tuple[str | list[str], np.ndarray]]:
    """Key and ids of every sequence, packed or not: sequences begin with <bos>."""
    vocab = Layout.load(out).vocab
    ids = np.concatenate([np.asarray(row) for row in rows])
    ids = ids[ids != vocab.special("pad")]
    starts = np.flatnonzero(ids == vocab.special("bos"))
    lines = (out / "train.keys.jsonl").read_text().splitlines()
    keys = list(map(json.loads, lines))
    if json.loads((out / "vqtok_export.json").read_text())["packing"]:
        keys = itertools.chain.from_iterable(keys)
    once = [key for key, _ in itertools.groupby(keys)]  # a sequence that was cut has two lines
    assert starts[0] == 0
    return list(zip(once, np.split(ids, starts[1:]), strict=True))


def rows_named(key: str | list[str], runs: list[dict]) -> list[dict]:
    """The rows that a sequence came from, stream by stream."""
    names = [key] if isinstance(key, str) else key
    return [runs[int(run)][id] for run, id in (name.split("/") for name in names)]


def stored(root: Path, variant: str) -> list[dict]:
    """The rows of every run by id."""
    runs = [open_run(root / stream) for stream in streams_of(variant)]
    return [{row["id"]: row for row in run.rows()} for run in runs]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("to", ["megatron", "nanogpt"])
@pytest.mark.parametrize("packing", [None, "none", "concat", "best_fit"])
def test_three_runs_come_back_from_files_to_their_codes(root, variant, to, packing, tmp_path):
    packed = ["--packing", packing, "--block-size", 330] if packing else []

    report, found = export(root, variant, tmp_path / "out", to, *packed)

    layout, runs = Layout.load(tmp_path / "out"), stored(root, variant)
    text = AutoTokenizer.from_pretrained(root / "bpe")
    seen = []
    for key, ids in found:
        name, parts = layout.decode(ids)
        rows = rows_named(key, runs)
        seen.append((name, rows[0]["id"]))
        for stream, row in zip(layout.sequences[name].streams, rows, strict=True):
            assert np.array_equal(parts[stream].codes.numpy(), row["codes"])
            assert parts[stream].fingerprint.startswith(row["codes_fp"])
        if "class" in parts:
            assert parts["class"] == rows[0]["label"]
        if "text" in parts:
            assert text.decode(parts["text"]) == rows[0]["caption"]
    # every row with codes is there once for every template; the photo of row 4 is bad, and the
    # caption of row 5 has no codes, but an empty text has ids: none
    good = {"photo": "01235", "sound": "012345", "prose": "01234", "t2a": "01234", "t2i": "0123"}
    good |= {"scene": "0123"} if variant == "codes" else {"t2i": "01235", "t2a": "012345"}
    wanted = [(name, f"0:{row}") for name in USED[variant] for row in good[name]]
    assert sorted(seen) == sorted(wanted)
    assert packing == "best_fit" or seen == wanted
    left = {"codes": {"decode_error": 3, "empty": 4}, "bpe": {"decode_error": 1}}
    assert report["left_out"] == left[variant]


@pytest.mark.slow  # megatron takes long to import, in a process of its own
@pytest.mark.parametrize("variant", VARIANTS)
def test_megatron_itself_reads_the_same_ids(root, variant, tmp_path):
    python = real_reader("megatron.core")
    _, found = export(root, variant, tmp_path / "out", "megatron")

    script = Path(__file__).with_name("real_readers.py")
    done = subprocess.run(
        [python, str(script), "megatron", str(tmp_path / "out")],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip

    rows = json.loads(done.stdout.splitlines()[-1])
    assert rows == [ids.tolist() for _, ids in found]


@pytest.fixture(scope="module")
def tokenizers() -> dict:
    return {
        stream: AutoVQTokenizer.from_pretrained(name, device="cpu")
        for stream, (name, _) in TOKENIZERS.items()
    }


def test_what_was_read_back_becomes_the_same_pictures_sounds_and_texts(root, tokenizers, tmp_path):
    source = table().to_pylist()
    _, found = export(root, "codes", tmp_path / "out", "megatron")
    layout, runs = Layout.load(tmp_path / "out"), stored(root, "codes")

    scenes = [(key, layout.decode(ids)) for key, ids in found[-4:]]

    for key, (name, parts) in scenes:
        assert name == "scene"
        rows = rows_named(key, runs)
        given = source[rows[0]["src_row"]]
        metas = [VQTokens.from_row(row).meta for row in rows]
        items = [
            dataclasses.replace(parts[stream], meta=meta)
            for stream, meta in zip(layout.sequences[name].streams, metas, strict=True)
        ]
        image, words, audio = items
        (picture,) = tokenizers["image"].detokenize([image])
        ((wave, rate),) = tokenizers["audio"].detokenize([audio])
        with Image.open(io.BytesIO(given["image"])) as photo:
            assert picture.size == photo.size
        assert tokenizers["words"].detokenize([words]) == [given["caption"]]
        sound, wanted_rate = soundfile.read(io.BytesIO(given["audio"]))
        assert (wave.shape[1], rate) == (len(sound), wanted_rate)
        # the sequence alone tells whole patches and frames
        (bare,) = tokenizers["image"].detokenize([parts["image"]])
        assert bare.size == tuple(-(-side // 8) * 8 for side in picture.size)
        ((longer, _),) = tokenizers["audio"].detokenize([parts["audio"]])
        assert np.array_equal(longer[:, : wave.shape[1]], wave)


def test_pairs_are_those_of_the_source_whatever_the_runs_keep_and_drop(root, tmp_path):
    runs = {stream: open_run(root / stream) for stream in ("words", "image")}

    pairs = list(join_rows(runs))

    assert [pair["image"]["src_row"] for pair in pairs] == list(range(6))
    for pair in pairs:
        assert pair["words"]["src_row"] == pair["image"]["src_row"]


def vocabulary(tokenizers) -> VocabLayout:
    """All three modalities and both kinds of text."""
    streams = [
        Stream.from_tokenizer(name, tok, LEVELS if name == "audio" else None)
        for name, tok in tokenizers.items()
    ]
    marks = ("boi", "eoi", "boa", "eoa", "bot", "eot", "eol", "null")
    return VocabLayout.build(
        streams,
        text=byte_tokenizer(),
        specials=["bos", "eos", "pad", *marks],
        labels={"class": 3},
        sizes={"height": 6, "width": 6, "length": 9},
        pad_to=128,
    )


def test_a_caption_that_spells_a_special_is_text(tokenizers):
    text = byte_tokenizer()
    stream = Stream.from_tokenizer("words", tokenizers["words"])
    ids = {"bos": text.bos_token_id, "eos": text.eos_token_id, "pad": text.pad_token_id}
    vocab = VocabLayout.build([stream], text=text, specials=ids | {"bot": None})
    layout = SequenceLayout(vocab, "<bos>{text}<bot>{words}<eos>", text_tokenizer=text)
    caption = "</s> a <pad>photo<s>"
    (words,) = tokenizers["words"].tokenize(["so"])

    parts = layout.decode(layout.encode({"text": caption, "words": words}).ids)

    assert text.decode(parts["text"]) == caption


DELAYS = {"name": "delay_flat", "delays": [0, 1, 1]}
PLANS = {
    "raster": ("<bos>{class}<boi>{height}{width}{image}<eoi><eos>", {"image": "raster"}),
    "column": ("<bos><boi>{height}{width}{image}<eoi><eos>", {"image": "column"}),
    "rows": ("<bos>{text}<boi>{image}<eoi><eos>", {"image": "raster_rows"}),
    "frame": (
        "<bos>{text}<boa>{audio}<eoa><eos>",
        {
            "audio": "frame",
        },
    ),
    "coarse": ("<bos><boa>{audio}<eoa><eos>", {"audio": "coarse_first"}),
    "delay": ("<bos><boa>{audio}<eoa><eos>", {"audio": "delay_flat"}),
    "delays": ("<bos><boa>{length}{audio}<eos>", {"audio": DELAYS}),
    "words": ("<bos><bot>{words}<eot><eos>", {"words": "frame"}),
    "scene": (
        "<bos>{class}{text}<bot>{words}<eot><boi>{image}<eoi>{length}{audio}<eos>",
        {"words": "delay_flat", "image": "raster_rows", "audio": "coarse_first"},
    ),
}


@pytest.mark.parametrize("plan", PLANS)
def test_whatever_a_stock_llama_generates_becomes_pictures_sounds_and_texts(plan, tokenizers):
    vocab = vocabulary(tokenizers)
    template, patterns = PLANS[plan]
    layout = SequenceLayout(vocab, template, patterns=patterns)
    text = byte_tokenizer()
    prompt = torch.full((3, 1), vocab.special("bos"))

    for seed, spread in ((0, 0.02), (1, 0.3), (2, 1.0)):
        out = tiny_llama(vocab, seed, spread).generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, max_length=60,
            logits_processor=[layout.logits_processor(max_length=60)],
        )  # fmt: skip
        for row in out:
            parts = layout.decode(row)
            for stream in layout.streams:
                item = parts[stream]
                (raw,) = tokenizers[stream].detokenize([item])
                check_raw(raw, item.codes, tokenizers[stream])
            if "text" in parts:
                assert isinstance(text.decode(parts["text"]), str)


def check_raw(raw, codes, tok) -> None:
    if tok.modality == "image":
        assert raw.size == tuple(8 * side for side in codes.shape[:0:-1])
    elif tok.modality == "audio":
        wave, rate = raw
        assert wave.shape == (1, codes.shape[1] * tok.hop)
        assert rate == tok.sample_rate_hz
        assert np.isfinite(wave).all()
    else:
        assert isinstance(raw, str)
