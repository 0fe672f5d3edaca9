"""Every format holds the ids that went in, read by an independent reader and by its own library."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.layout.cases import IMAGE_FP, layout_of, random_row, same_parts, vocabulary
from tests.layout.readers import READERS
from vqtok.errors import CodeRangeError, ConfigError, FingerprintError, InputError
from vqtok.layout import EXPORTERS, Encoded, Layout, SequenceLayout, Stream, VocabLayout
from vqtok.layout.export import export_codes, export_sequences

VOCAB = vocabulary()
NAMES = ("class_image", "text_to_audio", "delay_flat")
LAYOUT = Layout(VOCAB, {name: layout_of(name, VOCAB) for name in NAMES})
BLOCK = 80
MODULES = {"hf": "datasets", "mds": "streaming", "litdata": "litdata", "webdataset": "webdataset"}
MODULES |= {"megatron": "megatron.core"}


@pytest.fixture
def documents():
    """(template, row, sequence) of images, audio and text."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(30):
        name = NAMES[index % 3]
        row = random_row(rng, LAYOUT.sequences[name])
        found.append((name, row, LAYOUT.sequences[name].encode(row, key=f"item/{index}.x")))
    return found


def export(documents, out, to, **options):
    return export_sequences((d[2] for d in documents), out, to, LAYOUT, **options)


def large_layout(size):
    """A layout whose vocabulary has `size` ids, and a sequence with the largest of them."""
    vocab = VocabLayout.build([Stream("audio", (size - 3,), IMAGE_FP)])
    layout = SequenceLayout(vocab, "<bos>{audio}<eos>")
    item = {"codes": np.array([[size - 4, 0]]), "fingerprint": IMAGE_FP}
    return Layout(vocab, {"audio": layout}), [layout.encode({"audio": item})]


@pytest.mark.parametrize("to", sorted(set(EXPORTERS) - {"litdata"}))
def test_sequences_read_back_to_the_same_parts(to, documents, tmp_path):
    report = export(documents, tmp_path / "out", to, val_fraction=0.2)

    splits = {split: READERS[to](tmp_path / "out", split) for split in ("train", "val")}
    if to == "nanogpt":  # one stream: sequences begin with <bos>
        splits = {split: split_at_bos(rows[0]) for split, rows in splits.items()}
    wanted = {"train": [], "val": []}
    for index, document in enumerate(documents):
        wanted["val" if index % 5 == 4 else "train"].append(document)
    layout = Layout.load(tmp_path / "out")
    for split, rows in splits.items():
        assert report.rows[split] == len(rows) == len(wanted[split])
        for ids, (name, row, _) in zip(rows, wanted[split], strict=True):
            assert same_parts(row, layout.sequence(name).decode(ids))


def split_at_bos(stream):
    starts = [i for i, token in enumerate(stream) if token == VOCAB.special("bos")]
    return [stream[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]


@pytest.mark.parametrize("to", sorted(EXPORTERS))
@pytest.mark.parametrize("packing", ["none", "concat", "best_fit"])
def test_packed_rows_of_three_modalities_read_back_to_the_same_codes(
    to, packing, documents, tmp_path
):
    report = export(
        documents, tmp_path / "out", to, packing=packing, block_size=BLOCK, val_fraction=0
    )

    rows = READERS[to](tmp_path / "out", "train")
    stream = [token for row in rows for token in row]
    found = [LAYOUT.decode(ids) for ids in split_at_bos(unpadded(stream))]
    keys = sorted(map(str, (d[2].ids.tolist() for d in documents)))
    again = [
        LAYOUT.sequences[n].encode({k: p[k] for k in LAYOUT.sequences[n].inputs}) for n, p in found
    ]
    assert sorted(str(one.ids.tolist()) for one in again) == keys
    assert report.efficiency == pytest.approx(sum(d[2].ids.size for d in documents) / len(stream))
    if to != "nanogpt":
        assert {len(row) for row in rows} == {BLOCK}


def unpadded(stream):
    return [token for token in stream if token != VOCAB.special("pad")]


def real_reader(module):
    """A Python that has the module: this one, or the one that VQTOK_READERS_PYTHON names."""
    other = os.environ.get("VQTOK_READERS_PYTHON")
    root = module.partition(".")[0]
    if importlib.util.find_spec(root):
        return sys.executable
    if other:
        command = [other, "-c", f"import {module}"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return other
    pytest.skip(f"{module} is not installed; name a Python that has it in VQTOK_READERS_PYTHON")


@pytest.mark.slow  # streaming and litdata take long to import, in processes of their own
@pytest.mark.parametrize("to", sorted(MODULES))
def test_the_library_of_a_format_reads_the_same_ids(to, documents, tmp_path):
    python = real_reader(MODULES[to])
    packed = {"packing": "best_fit", "block_size": BLOCK}
    export(documents, tmp_path / "out", to, **packed if to == "litdata" else {})
    arguments = [to, str(tmp_path / "out"), *([str(BLOCK)] if to == "litdata" else [])]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}

    done = subprocess.run(
        [python, str(Path(__file__).with_name("real_readers.py")), *arguments],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == READERS[to](tmp_path / "out", "train")


@pytest.mark.parametrize("to", sorted(set(EXPORTERS) - {"litdata"}))
@pytest.mark.parametrize("size", [65_499, 65_500, 65_536, 65_537, 200_000])
def test_the_largest_id_survives_or_the_format_refuses(to, size, tmp_path):
    layout, sequences = large_layout(size)

    if to == "nanogpt" and size > 65_536:
        with pytest.raises(CodeRangeError, match="uint16"):
            export_sequences(sequences, tmp_path / "out", to, layout)
        assert list(tmp_path.iterdir()) == []
        return
    report = export_sequences(sequences, tmp_path / "out", to, layout, val_fraction=0)

    assert READERS[to](tmp_path / "out", "train") == [sequences[0].ids.tolist()]
    wide = {"megatron": "int32"}.get(to, "uint32")
    limit = 65_500 if to == "megatron" else 65_537
    assert report.dtype == ("uint16" if size < limit else wide)


@pytest.mark.parametrize("to", ["hf", "memmap", "webdataset", "mds"])
def test_plain_codes_keep_their_shape(to, tmp_path):
    rng = np.random.default_rng(0)
    stream = VOCAB.stream("image")
    grids = [(2, 3), (1, 1), (4, 300)]
    rows = [{"codes": rng.integers(0, 5, (2, *g)), "fingerprint": IMAGE_FP} for g in grids]

    export_codes(rows, tmp_path / "out", to, stream)

    found = READERS[to](tmp_path / "out", "train")
    for row, array in zip(rows, found, strict=True):
        assert np.array_equal(row["codes"], array)


@pytest.mark.parametrize("to", ["nanogpt", "megatron", "litdata"])
def test_formats_of_sequences_refuse_plain_codes(to, tmp_path):
    row = {"codes": np.zeros((2, 1, 1), int), "fingerprint": IMAGE_FP}

    with pytest.raises(ConfigError, match="need a layout"):
        export_codes([row], tmp_path / "out", to, VOCAB.stream("image"))
    with pytest.raises(FingerprintError):
        export_codes([row | {"fingerprint": "f" * 64}], tmp_path / "b", "hf", VOCAB.stream("image"))


def test_hf_carries_labels_positions_and_documents(documents, tmp_path):
    from datasets import load_dataset

    masked = [Encoded(s.ids, np.arange(s.ids.size) > 2, s.key) for _, _, s in documents]
    options = {"packing": "best_fit", "block_size": BLOCK}
    export_sequences(masked, tmp_path / "out", "hf", LAYOUT, **options)

    data = load_dataset(str(tmp_path / "out"), split="train", cache_dir=tmp_path / "cache")

    assert set(data.column_names) == {"key", "input_ids", "labels", "position_ids", "document_ids"}
    for row in data:
        ids, labels = np.array(row["input_ids"]), np.array(row["labels"])
        learned = (np.array(row["position_ids"]) > 2) & (np.array(row["document_ids"]) >= 0)
        assert np.array_equal(labels, np.where(learned, ids, -100))


def test_equal_input_gives_equal_bytes(documents, tmp_path):
    for to in sorted(EXPORTERS):
        for name in ("a", "b"):
            options = {"packing": "concat", "block_size": BLOCK, "val_fraction": 0.2}
            export(documents, tmp_path / to / name / "x", to, **options)
        one, other = (sorted((tmp_path / to / n).rglob("*")) for n in ("a", "b"))
        assert [p.read_bytes() for p in one if p.is_file()] == [
            p.read_bytes() for p in other if p.is_file()
        ]


def test_what_nanogpt_samples_decodes(documents, tmp_path):
    export(documents[:1], tmp_path / "out", "nanogpt", val_fraction=0)

    # the lines of nanoGPT's sample.py, with its default start
    meta = pickle.loads((tmp_path / "out/meta.pkl").read_bytes())
    start = [meta["stoi"][c] for c in "\n"]
    (ids,) = READERS["nanogpt"](tmp_path / "out", "train")
    printed = "".join([meta["itos"][i] for i in ids])

    assert start == ids[:1] == [VOCAB.special("bos")]
    name, row, _ = documents[0]
    decoded = LAYOUT.sequences[name].decode([int(word) for word in printed.split()])
    assert same_parts(row, decoded)


@pytest.mark.parametrize("to", ["megatron", "nanogpt", "memmap", "webdataset"])
@pytest.mark.parametrize("packing", [None, "concat"])
def test_memory_does_not_grow_with_the_rows(to, packing, tmp_path):
    sequence = Encoded(np.arange(4_096, dtype=np.uint16) % VOCAB.size, np.ones(4_096, bool), "k")
    packed = {"packing": packing, "block_size": 1_000} if packing else {}
    peaks = []

    for rows in (20, 250):
        tracemalloc.start()
        export_sequences(
            (sequence for _ in range(rows)),
            tmp_path / f"{rows}",
            to,
            LAYOUT,
            val_fraction=0,
            **packed,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    # 1 MB of ids and 1 MB of masks more; a place in the index is what may be held
    assert peaks[1] < peaks[0] + 200_000


KILLED = """
import os, sys
import numpy as np
from tests.layout.test_export import LAYOUT, Encoded, export_sequences
def rows():
    for index in range(50):
        yield Encoded(np.zeros(9, np.uint16), np.ones(9, bool), str(index))
    os.kill(os.getpid(), 9)
export_sequences(rows(), sys.argv[1], "megatron", LAYOUT)
"""


def test_an_export_that_is_killed_leaves_no_folder_of_that_name(documents, tmp_path):
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}

    command = [sys.executable, "-c", KILLED, str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, check=False, timeout=200)

    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    export(documents, tmp_path / "out", "megatron")
    assert len(READERS["megatron"](tmp_path / "out", "train")) == len(documents)


def test_an_export_that_breaks_off_leaves_nothing(documents, tmp_path):
    def broken():
        yield documents[0][2]
        yield documents[1][2]
        raise InputError("the disk is gone")

    for to in sorted(EXPORTERS):
        with pytest.raises(InputError, match="disk is gone"):
            export_sequences(
                broken(), tmp_path / "out", to, LAYOUT, packing="none", block_size=BLOCK
            )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("csv", {}, "no format 'csv'"),
        ("litdata", {}, "packing"),
        ("hf", {"packing": "none"}, "go together"),
        ("hf", {"block_size": 8}, "go together"),
        ("hf", {"val_fraction": 1.0}, "below 1"),
        ("mds", {"val_fraction": 0.01}, "30 sequences none fell into validation"),
    ],
)
def test_options_that_do_not_go_together_are_refused(to, options, message, documents, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export(documents, tmp_path / "out", to, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_and_an_empty_export_are_refused(documents, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()

    with pytest.raises(ConfigError, match="has content"):
        export(documents, tmp_path / "old", "hf")
    with pytest.raises(InputError, match="nothing to export"):
        export([], tmp_path / "out", "hf")


def test_an_id_that_the_vocabulary_has_not_is_refused(tmp_path):
    bad = Encoded(np.array([0, VOCAB.size]), np.ones(2, bool))

    for to in sorted(set(EXPORTERS) - {"litdata"}):
        with pytest.raises(CodeRangeError):
            export_sequences([bad], tmp_path / "out", to, LAYOUT, val_fraction=0)
