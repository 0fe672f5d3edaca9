"""Rows of several runs that belong together: found whatever the order, never guessed."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layout.cases import AUDIO_FP, IMAGE_FP
from tests.layout.readers import READERS
from vqtok.errors import CodeRangeError, ConfigError, InputError
from vqtok.layout import Layout, join_rows
from vqtok.layout.runs import export_runs, layout_of_runs

PRINTS = {"image": IMAGE_FP, "audio": AUDIO_FP, "other": "5e" * 32}


@dataclass
class FakeRun:
    """A run in memory, as `open_run` gives it."""

    kind: str
    content_rows: list[dict]
    root: Path
    source: dict = field(default_factory=lambda: {"kind": "files", "path": "/folder"})

    @property
    def content(self):
        print_ = dict.fromkeys(("encode", "decode", "codebook"), PRINTS[self.kind])
        made_by = {"name": f"me/{self.kind}", "modality": self.kind, "fingerprint": print_}
        return {
            "tokenizer": made_by | {"codebook_sizes": [9]},
            "options": {"num_codebooks": 1},
            "source": self.source,
        }

    def rows(self, columns=None):
        for row in self.content_rows:
            yield {k: v for k, v in row.items() if columns is None or k in columns}


def run(kind, names, root=None, **columns):
    """A run with a row a name; its code is the name's last digit."""
    axes = (1, 1) if kind == "image" else (1,)
    rows = [
        {
            "id": f"0:{place}",
            "src": f"{name}.{kind}",
            "src_row": 0,
            "status": "ok",
            "codes": np.full((1, *axes), int(name[-1])),
            "shape": [1, *axes],
            "codes_fp": PRINTS[kind][:16],
        }
        | {column: values[place] for column, values in columns.items()}
        for place, name in enumerate(names)
    ]
    return FakeRun(kind, rows, Path(root or kind))


def layout_file(runs, tmp_path, **templates):
    made = layout_of_runs({r.kind: r for r in runs}, templates, labels={"class": 3})
    return made.save(tmp_path / "layout")


names = st.lists(st.from_regex(r"[abc]/[a-d]?[0-8]", fullmatch=True), unique=True, max_size=12)


@settings(deadline=None)
@given(one=names, other=names)
def test_pairs_are_exactly_the_names_that_both_have_in_the_order_of_the_first(one, other):
    left_out = Counter()

    pairs = list(
        join_rows({"image": run("image", one), "audio": run("audio", other)}, "src", left_out)
    )

    assert [p["image"]["src"] for p in pairs] == [f"{n}.image" for n in one if n in set(other)]
    assert all(p["image"]["src"][:-6] == p["audio"]["src"][:-6] for p in pairs)
    assert left_out["unpaired"] == len(one) + len(other) - 2 * len(pairs)


def test_rows_of_one_order_are_not_collected():
    """A row that is missing on one side makes nobody wait."""
    read = []

    class Watched(FakeRun):
        def rows(self, columns=None):
            for row in super().rows(columns):
                if columns is None:
                    read.append(row["src"])
                yield row

    every = [f"{index:03d}" for index in range(100)]
    ahead = run("image", every[3:])
    behind = run("audio", every)
    behind = Watched("audio", behind.content_rows, behind.root)

    for place, pair in enumerate(join_rows({"image": ahead, "audio": behind})):
        assert len(read) == place + 4
        assert pair["audio"]["src"] == f"{every[place + 3]}.audio"


def test_a_column_pairs_rows_and_null_pairs_with_nothing():
    image = run("image", ["1", "2", "3"], name=["x", None, "y"])
    audio = run("audio", ["4", "5", "6"], name=["y", "x", None])
    left_out = Counter()

    pairs = list(join_rows({"image": image, "audio": audio}, "name", left_out))

    assert [(p["image"]["id"], p["audio"]["id"]) for p in pairs] == [("0:0", "0:1"), ("0:2", "0:0")]
    assert left_out == {"unpaired": 2}


def test_a_key_that_is_there_twice_and_a_missing_column_are_refused():
    image, audio = run("image", ["1", "2"], name=["x", "x"]), run("audio", ["1"], name=["x"])

    with pytest.raises(InputError, match="'image' has two rows with the name 'x'"):
        list(join_rows({"image": image, "audio": audio}, "name"))
    labelled = run("image", ["1"], label=[0])
    with pytest.raises(InputError, match="'audio' has no column 'label'"):
        list(join_rows({"image": labelled, "audio": audio}, "label"))
    audio.content_rows.append(dict(audio.content_rows[0], src="1.flac"))
    with pytest.raises(InputError, match=r"two rows with the src '1\.flac, row 0'"):
        list(join_rows({"image": run("image", ["1"]), "audio": audio}))


def test_pairs_go_into_one_sequence_with_keys_of_both(tmp_path):
    image = run("image", ["1", "2", "3"], label=[0, 1, 2])
    audio = run("audio", ["3", "1", "4", "2"])
    image.content_rows[1] |= {"codes": None, "shape": None, "status": "decode_error"}
    path = layout_file([image, audio], tmp_path, pair="<bos>{class}{image}<boa>{audio}<eos>")

    report = export_runs(
        [audio, image], tmp_path / "out", "memmap", path, columns={"class": "label"}
    )

    layout = Layout.load(tmp_path / "out")
    found = [layout.decode(ids)[1] for ids in READERS["memmap"](tmp_path / "out", "train")]
    values = [(p["class"], p["image"].codes.item(), p["audio"].codes.item()) for p in found]
    assert values == [(0, 1, 1), (2, 3, 3)]
    keys = (tmp_path / "out/train.keys.jsonl").read_text().splitlines()
    assert [json.loads(key) for key in keys] == [["1/0:0", "0/0:1"], ["1/0:2", "0/0:0"]]
    assert report.left_out == {"unpaired": 1, "decode_error": 1}
    assert "left out: 1 unpaired, 1 decode_error" in report.summary()


def test_templates_take_their_runs_one_after_the_other(tmp_path):
    image, more = run("image", ["1", "2"]), run("image", ["3"], root="more")
    audio = run("audio", ["7", "1"])
    path = layout_file(
        [image, audio], tmp_path,
        photo="<bos>{image}<eos>", sound="<bos><boa>{audio}<eos>",
        both="<boa>{audio}<bos>{image}<eos>",
    )  # fmt: skip

    def order(runs, templates, out):
        export_runs(runs, tmp_path / out, "memmap", path, templates=templates)
        lines = (tmp_path / out / "train.keys.jsonl").read_text().splitlines()
        return list(map(json.loads, lines))

    assert order([image, more, audio], [], "a") == [
        "0/0:0", "0/0:1", "1/0:0", "2/0:0", "2/0:1"
    ]  # fmt: skip
    assert order([image, audio], ["sound", "both"], "b") == [
        "1/0:0", "1/0:1", ["1/0:1", "0/0:0"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        (["image", "image"], {}, "named twice"),
        (["image", "audio"], {"templates": ["photo"]}, "audio.*hold codes of no stream"),
        (["image"], {"templates": ["both"]}, "{audio} of .* is for codes of me/audio"),
        (["image"], {"templates": ["photo"], "join": "src"}, "nothing to join by 'src'"),
        (["image", "more", "audio"], {"templates": ["both"]}, "one run for each"),
        (["other"], {}, "0 of the templates"),
        (["image"], {"plain": True, "layout": None, "join": "src"}, "take no join"),
        (["image"], {"columns": {"style": "x"}}, r"columns for \['style'\]"),
    ],
)
def test_runs_that_no_template_takes_as_they_are_are_refused(runs, options, message, tmp_path):
    known = {kind: run(kind, ["1"]) for kind in PRINTS} | {"more": run("image", ["2"], "more")}
    path = layout_file(
        [known["image"], known["audio"]], tmp_path,
        photo="<bos>{image}<eos>", sound="<bos>{audio}<eos>", both="<bos>{image}<eos>{audio}<eos>",
    )  # fmt: skip

    with pytest.raises(ConfigError, match=message):
        export_runs([known[r] for r in runs], tmp_path / "o", "hf", **{"layout": path} | options)
    assert not (tmp_path / "o").exists()


def test_two_streams_of_one_tokenizer_do_not_share_a_run(tmp_path):
    image = run("image", ["1"])
    made = layout_of_runs(
        {"before": image, "after": image}, {"a": "<bos>{before}<eos>{after}<eos>"}
    )

    with pytest.raises(ConfigError, match="one run for each"):
        export_runs([image], tmp_path / "o", "hf", made.save(tmp_path))


def test_an_error_names_its_row(tmp_path):
    image = run("image", ["1", "2"], label=[0, 3])
    path = layout_file([image], tmp_path, a="<bos>{class}{image}<eos>")

    with pytest.raises(CodeRangeError, match=r"row 0:1: label 'class' holds values 0 to 2; got 3"):
        export_runs([image], tmp_path / "o", "hf", path, columns={"class": "label"})
    assert sorted(tmp_path.iterdir()) == [tmp_path / "layout"]


def test_sizes_that_are_not_given_are_those_of_the_runs_and_grids_may_be_fixed():
    image, audio = run("image", ["1", "2"]), run("audio", ["3"])
    image.content_rows[1] |= {"codes": np.zeros((1, 3, 5), int), "shape": [1, 3, 5]}
    audio.content_rows[0] |= {"codes": np.zeros((1, 7), int), "shape": [1, 7]}
    runs = {"image": image, "audio": audio}
    words = "<bos>{height}{width}{image}{length}{audio}<eos>"

    vocab = layout_of_runs(runs, {"a": words}).vocab
    given = layout_of_runs(runs, {"a": words}, sizes={"height": 9}).vocab
    fixed = layout_of_runs(runs, {"a": "<bos>{image}<eos>"}, grids={"image": [3, 5]})

    sizes = [vocab.range_of("label", name).size for name in ("height", "width", "length")]
    assert sizes == [3, 5, 7]
    assert given.range_of("label", "height").size == 9
    assert fixed.sequence().parts[1].grid == (3, 5)
    assert fixed.sequence().parts[1].pattern.name == "raster"
    with pytest.raises(ConfigError, match="in no template"):
        layout_of_runs(runs, {"a": "<bos>{image}<eos>"}, grids={"audio": [3]})


TABLE = {"kind": "tables", "path": "/a"}


@pytest.mark.parametrize(
    "other",
    [TABLE | {"path": "/b"}, TABLE | {"kind": "lines"}, {"kind": "files", "path": "/a"}],
)
def test_rows_of_different_tables_are_not_taken_for_one_another(other, tmp_path):
    """train.parquet here and train.parquet there: row 7 of one is no caption of row 7."""
    image, audio = run("image", ["1", "2"], uid=["x", "y"]), run("audio", ["1", "2"], uid=[0, "x"])
    image.source, audio.source = TABLE, other
    path = layout_file([image, audio], tmp_path, pair="<bos>{image}<boa>{audio}<eos>")

    with pytest.raises(ConfigError, match=r"different sources.*--join COLUMN"):
        export_runs([image, audio], tmp_path / "no", "hf", path)
    report = export_runs([image, audio], tmp_path / "out", "hf", path, join="uid")

    assert not (tmp_path / "no").exists()
    assert report.rows == {"train": 1}


def test_rows_of_one_table_pair_by_their_whole_place():
    """Only an ending that tells a photo from its caption is dropped, not one of a table."""
    image, audio = run("image", ["1", "2"]), run("audio", ["1", "2"])
    image.source = audio.source = TABLE
    for place, row in enumerate(image.content_rows):
        row["src"] = ("train.parquet", "train.arrow")[place]
    audio.content_rows[0]["src"] = "train.arrow"
    audio.content_rows[1]["src"] = "other.arrow"

    pairs = list(join_rows({"image": image, "audio": audio}))

    assert [(p["image"]["id"], p["audio"]["id"]) for p in pairs] == [("0:1", "0:0")]


def test_plain_codes_leave_an_empty_row_out_and_count_it(tmp_path):
    audio = run("audio", ["1", "2", "3"])
    audio.content_rows[0] |= {"codes": np.zeros((1, 0), int), "shape": [1, 0]}
    audio.content_rows[1] |= {"codes": None, "shape": None, "status": "decode_error"}

    for to in ("hf", "memmap", "webdataset", "mds"):
        report = export_runs([audio], tmp_path / to, to, plain=True)

        assert report.left_out == {"empty": 1, "decode_error": 1}
        assert [codes.tolist() for codes in READERS[to](tmp_path / to, "train")] == [[[3]]]
