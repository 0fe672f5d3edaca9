"""`vqtok layout` and `vqtok export` on runs that `vqtok tokenize` wrote."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from tests.data.conftest import datasets_cache, png
from tests.data.fake import FakeTokenizer, FakeTokens, TwoLevels
from tests.data.rows import rows_of
from tests.layout.readers import READERS
from tests.layout.test_vocabulary import text_tokenizer
from vqtok.cli import app
from vqtok.data import tokenize_dataset
from vqtok.errors import FormatError
from vqtok.layout import Layout
from vqtok.models.embedding_vq import EmbeddingVQConfig, EmbeddingVQModel

__all__ = ["datasets_cache"]

CAPTIONS = ["a b", "c", "", "b b b"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one table with classes and captions, by two tokenizers; a row of it is bad."""
    root = tmp_path_factory.mktemp("runs")
    images = [png(i, 8 * (1 + i % 3), 16 + 8 * (i % 2)) for i in range(4)]
    columns = {"image": [*images, b"no image"], "label": [0, 2, 1, 2, 0]}
    table = pa.table(columns | {"caption": [*CAPTIONS, "bad"]})
    pq.write_table(table, root / "source.parquet")
    for name, tokenizer in (
        ("one", FakeTokenizer()),
        ("two", TwoLevels(decode="2" * 64)),
    ):
        tokenize_dataset(root / "source.parquet", root / name, tokenizer, keep=["label", "caption"])
    text_tokenizer().save_pretrained(root / "text")
    return root


def vqtok(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def stored_codes(run):
    rows = [row for row in rows_of(run) if row["codes"] is not None]
    return [np.array(row["codes"]).reshape(row["shape"]) for row in rows]


def test_two_runs_and_text_go_into_one_vocabulary_and_come_back(runs, tmp_path):
    made = vqtok(
        "layout", "--run", f"image={runs / 'one'}", "--run", f"deep={runs / 'two'}",
        "--text", runs / "text", "--label", "class=3", "--size", "height=3", "--size", "width=3",
        "--template", "a=<bos>{class}{height}{width}<boi>{image}<eoi><eos>",
        "--template", "b=<bos>{text}<boi>{deep}<eoi><eos>", "--pattern", "deep=raster_rows",
        "--out", tmp_path / "layout", "--pad-to", 64, "--json",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["vocab_size"] % 64 == 0
    layout = Layout.load(tmp_path / "layout")

    done = vqtok(
        "export", runs / "one", runs / "two", "--layout", tmp_path / "layout", "--to", "megatron",
        "--out", tmp_path / "out", "--column", "class=label", "--column", "text=caption",
        "--text", runs / "text", "--json",
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"] == {"train": 8}
    assert report["dtype"] == "int32"
    parts = [layout.decode(ids) for ids in READERS["megatron"](tmp_path / "out", "train")]
    assert [name for name, _ in parts] == list("aaaabbbb")
    found = [p["image" if name == "a" else "deep"].codes.numpy() for name, p in parts]
    for codes, wanted in zip(
        found, stored_codes(runs / "one") + stored_codes(runs / "two"), strict=True
    ):
        assert np.array_equal(codes, wanted)
    assert [p["class"] for _, p in parts[:4]] == [0, 2, 1, 2]
    tokenizer = text_tokenizer()
    assert [tokenizer.decode(p["text"]) for _, p in parts[4:]] == CAPTIONS
    assert json.loads((tmp_path / "out/vqtok_export.json").read_text())["sources"][1]["decode"]


@pytest.mark.parametrize("to", ["nanogpt", "hf"])
def test_a_run_alone_gets_a_layout_of_its_own(runs, tmp_path, to):
    done = vqtok(
        "export", runs / "one", "--to", to, "--out", tmp_path / "out",
        "--packing", "best_fit", "--block-size", 40, "--val-fraction", 0,
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    assert "no padding" in done.stdout
    layout = Layout.load(tmp_path / "out")
    stream = np.concatenate(READERS[to](tmp_path / "out", "train"))
    stream = stream[stream != layout.vocab.special("pad")]
    starts = np.flatnonzero(stream == layout.vocab.special("bos"))
    found = [layout.decode(ids)[1]["image"].codes for ids in np.split(stream, starts)[1:]]
    wanted = sorted(c.tolist() for c in stored_codes(runs / "one"))
    assert sorted(c.tolist() for c in found) == wanted


def test_codes_of_a_text_tokenizer_are_no_text(runs, tmp_path):
    class Words(FakeTokenizer):
        modality = "text"

        def _one(self, item):
            codes = torch.tensor([list(item.encode() or b" ")])
            return FakeTokens(codes, {}, self.fingerprint.decode)

    source = runs / "source.parquet"
    tokenize_dataset(source, tmp_path / "codes", Words(), column="caption")

    done = vqtok("export", tmp_path / "codes", "--to", "memmap", "--out", tmp_path / "out")

    assert done.exit_code == 0, done.stderr
    layout = Layout.load(tmp_path / "out")
    assert list(layout.vocab.streams) == ["text_codes"]
    rows = [layout.decode(ids)[1] for ids in READERS["memmap"](tmp_path / "out", "train")]
    assert bytes(rows[0]["text_codes"].codes[0].tolist()) == b"a b"


def test_a_prior_over_vectors_makes_one_vector(tmp_path):
    """A second one would be lost in silence: no legal id begins it."""
    tok = EmbeddingVQModel(
        EmbeddingVQConfig(
            embedding_dim=4,
            quantizer_config={"kind": "product", "codebook_size": 8, "num_codebooks": 2},
        )
    )
    np.save(tmp_path / "vectors.npy", np.eye(4, dtype=np.float32))
    tokenize_dataset(tmp_path / "vectors.npy", tmp_path / "codes", tok.eval())

    done = vqtok("export", tmp_path / "codes", "--to", "memmap", "--out", tmp_path / "out")

    assert done.exit_code == 0, done.stderr
    sequence = Layout.load(tmp_path / "out").sequence()
    rows = READERS["memmap"](tmp_path / "out", "train")
    found = [sequence.decode(ids)["embedding"] for ids in rows]
    assert [list(item.codes.shape) for item in found] == [[2, 1]] * 4
    assert len(tok.detokenize(found)) == 4
    begin, end = rows[0][:2], rows[0][4:]
    with pytest.raises(FormatError):
        sequence.decode([*begin, *rows[0][2:4], *rows[1][2:4], *end])


def test_a_source_of_few_rows_goes_to_nanogpt(runs, tmp_path):
    done = vqtok("export", runs / "one", "--to", "nanogpt", "--out", tmp_path / "out", "--json")

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == {"train": 3, "val": 1}


def test_plain_codes_are_exported_as_they_are(runs, tmp_path):
    done = vqtok("export", runs / "two", "--to", "webdataset", "--plain", "--out", tmp_path / "out")

    assert done.exit_code == 0, done.stderr
    found = READERS["webdataset"](tmp_path / "out", "train")
    assert all(np.array_equal(a, b) for a, b in zip(found, stored_codes(runs / "two"), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one", "--to", "csv"], "no format 'csv'"),
        (["two", "--to", "nanogpt"], "uint16"),
        (["one", "two", "--to", "hf"], "need a layout"),
        (["one", "--to", "hf", "--packing", "none"], "go together"),
        (["one", "--to", "hf", "--plain", "--packing", "none"], "take no packing"),
        (["one", "--to", "hf", "--column", "class=label"], "columns for ['class']"),
        (["one", "--to", "hf", "--column", "class"], "NAME=VALUE"),
        (["one", "--to", "hf", "--template", "x"], "templates ['image']"),
        (["none", "--to", "hf"], "is not a folder of codes"),
    ],
)
def test_what_cannot_be_exported_is_refused(runs, tmp_path, arguments, message):
    names = [runs / a if a in ("one", "two", "none") else a for a in arguments]

    done = vqtok("export", *names, "--out", tmp_path / "out")

    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_column_is_named(runs, tmp_path):
    made = vqtok(
        "layout", "--run", f"image={runs / 'one'}", "--label", "class=3",
        "--template", "a=<bos>{class}{image}<eos>", "--out", tmp_path,
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr

    done = vqtok(
        "export", runs / "one", "--layout", tmp_path, "--to", "hf", "--out", tmp_path / "o"
    )

    assert done.exit_code == 1
    assert "no column 'class'" in done.stderr
    assert "codes 'image' level 0" in made.stdout


def test_rows_of_two_runs_pair_by_a_column_and_a_grid_may_be_fixed(runs, tmp_path):
    made = vqtok(
        "layout", "--run", f"image={runs / 'one'}", "--run", f"deep={runs / 'two'}",
        "--template", "pair=<bos>{image}<eos>{height}{width}{deep}",
        "--template", "small=<bos>{image}<eol>", "--grid", "image=1x2", "--out", tmp_path / "l",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    one, two = runs / "one", runs / "two"

    fixed = vqtok(
        "export", one, two, "--layout", tmp_path / "l", "--template", "pair", "--join", "caption",
        "--to", "memmap", "--out", tmp_path / "fixed",
    )  # fmt: skip
    useless = vqtok("export", one, "--join", "caption", "--to", "hf", "--out", tmp_path / "no")

    assert "fixes {image} to the grid (1, 2)" in fixed.stderr
    assert "nothing to join by 'caption'" in useless.stderr
    made = vqtok(
        "layout", "--run", f"image={one}", "--run", f"deep={two}", "--out", tmp_path / "free",
        "--template", "pair=<bos>{image}<eos>{height}{width}{deep}",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    done = vqtok(
        "export", two, one, "--layout", tmp_path / "free", "--join", "caption",
        "--to", "memmap", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    layout = Layout.load(tmp_path / "out")
    parts = [layout.decode(ids)[1] for ids in READERS["memmap"](tmp_path / "out", "train")]
    wanted = zip(stored_codes(one), stored_codes(two), strict=True)
    for found, (image, deep) in zip(parts, wanted, strict=True):
        assert np.array_equal(found["image"].codes, image)
        assert np.array_equal(found["deep"].codes, deep)
    assert json.loads(done.stdout)["left_out"] == {"decode_error": 1}
