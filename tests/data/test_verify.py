"""Verify: a run as it was written passes; whatever is changed in it is found and named."""

import hashlib
import json
import random
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from vqtok.data import tokenize_dataset, verify_run
from vqtok.data.check import UnitCheck
from vqtok.errors import FormatError, VqtokError

FIRST, SECOND = (f"data/train-0000{index}-of-00003.parquet" for index in range(2))
BAD = 5


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Twelve images, one of them broken, in units of four."""
    root = tmp_path_factory.mktemp("verify")
    (root / "in").mkdir()
    for index in range(12):
        (root / f"in/{index:02d}.png").write_bytes(b"bad" if index == BAD else png(index))
    tokenize_dataset(root / "in", root / "out", FakeTokenizer(), unit_rows=4)
    return root / "out"


@pytest.fixture
def run(written, tmp_path):
    return shutil.copytree(written, tmp_path / "out")


def found(run) -> str:
    """All that verify has to say, however it says it."""
    try:
        return "\n".join(verify_run(run).problems)
    except VqtokError as error:
        return str(error)


def test_a_run_as_it_was_written_is_verified(run):
    report = verify_run(run)

    assert report.problems == []
    assert (report.rows, report.bad, report.units) == (12, 1, 3)
    assert report.to_dict()["verified"] is True


def rewrite(run, change, name=FIRST, groups=None) -> None:
    """Another table under the name of a unit, with the old metadata, and its digest everywhere."""
    table = pq.read_table(run / name)
    changed = change(table).replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, run / name, row_group_size=groups)
    data = (run / name).read_bytes()
    number = int(name[11:16])
    new = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(run, "vqtok.json", lambda content: content["units"][number].update(new))
    edit(run, f".vqtok/commits/{number:05d}.json", lambda content: content.update(new))

    def add_up(content):
        content["totals"]["bytes"] = sum(unit["bytes"] for unit in content["units"])

    edit(run, "vqtok.json", add_up)


def edit(run, name, change) -> None:
    content = json.loads((run / name).read_text())
    change(content)
    (run / name).write_text(json.dumps(content))


def with_column(name, change, kind=None):
    def changed(table):
        values = pa.array(change(table[name].to_pylist()), kind or table.schema.field(name).type)
        return table.set_column(table.schema.get_field_index(name), name, values)

    return changed


def first(value):
    return lambda values: [value, *values[1:]]


def flipped(values):
    values[1][0] ^= 1
    return values


IN_A_FILE = {
    "a row too few": (lambda table: table.slice(1), "holds 3 rows; the plan has 4"),
    "a row too many": (lambda table: table.take([0, 0, 1, 2, 3]), "holds 5 rows"),
    "rows swapped": (lambda table: table.take([1, 0, 2, 3]), r"in row 0 \('01.png', 0\); the plan"),
    "a row twice": (lambda table: table.take([0, 0, 2, 3]), r"in row 1 \('00.png', 0\); the plan"),
    "swapped and numbered": (
        lambda table: with_column("row", sorted)(table.take([0, 2, 1, 3])),
        "in row 1",
    ),
    "a code flipped": (with_column("codes", flipped), "usage.parquet does not have the counts"),
    "a code out of range": (with_column("codes", first([9999])), "holds code 9999"),
    "codes of another type": (
        with_column("codes", first([-3]), pa.list_(pa.int64())),
        "a column codes of list<item: uint16>",
    ),
    "a code missing": (with_column("codes", first([1, None])), "missing codes among"),
    "codes missing": (with_column("codes", first(None)), "None codes and the shape"),
    "a status of its own": (with_column("status", first("weird")), "exactly where the status"),
    "no status": (with_column("status", first(None)), "rows without status"),
    "an error that is none": (with_column("error", first("boo")), "an error exactly where"),
    "another tokenizer": (with_column("codes_fp", first("0" * 16)), "other tokenizers"),
    "no tokenizer": (with_column("codes_fp", first(None)), "rows without codes_fp"),
    "another unit": (with_column("unit", first(2)), "another unit"),
    "rows not numbered": (with_column("row", first(2)), "not numbered from 0"),
    "another shape": (with_column("shape", first([1, 1, 1])), "and the shape"),
    "a shape below zero": (with_column("shape", first([1, -2, -3])), "the shape"),
    "no shape": (with_column("shape", first(None)), "and the shape None"),
    "meta that is none": (with_column("meta", first("{")), "no JSON object"),
    "another id": (with_column("id", first("x")), "ids_digest"),
    "a column too few": (lambda table: table.drop_columns(["meta"]), "a column meta"),
    "a column too many": (lambda table: table.append_column("x", [[1] * 4]), "'x'"),
}


@pytest.mark.parametrize(("change", "says"), IN_A_FILE.values(), ids=IN_A_FILE)
def test_a_file_that_is_wrong_is_found_even_with_new_digests(run, change, says):
    rewrite(run, change)

    assert re.search(says, found(run)), found(run)
    assert "NOT" in verify_run(run).summary()


def replace(name, data):
    def change(run):
        (run / name).write_bytes(data((run / name).read_bytes()))

    return change


def edited(name, *path, value):
    """A JSON file with one value changed."""

    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return lambda run: edit(run, name, change)


def without(name, *path):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return lambda run: edit(run, name, change)


def removed(name):
    return lambda run: (run / name).unlink()


def copied(name, target):
    return lambda run: shutil.copy(run / name, run / target)


def other_plan(run):
    path = run / ".vqtok/plan.parquet"
    pq.write_table(pq.read_table(path).slice(0, 8), path)


COMMIT, RUN, PLAN = ".vqtok/commits/00001.json", ".vqtok/run.json", ".vqtok/plan.parquet"
AROUND = {
    "bytes changed": (replace(FIRST, lambda d: d[:300] + b"?" + d[301:]), FIRST),
    "file cut": (replace(FIRST, lambda d: d[:-50]), f"{FIRST} cannot be read"),
    "file empty": (replace(FIRST, lambda d: b""), f"{FIRST} cannot be read"),
    "file gone": (removed(FIRST), f"{FIRST} is missing"),
    "file of another unit": (copied(SECOND, FIRST), f"{FIRST} does not belong"),
    "stranger": (copied(FIRST, "data/more.parquet"), "data/more.parquet"),
    "no manifest": (removed("vqtok.json"), "unfinished"),
    "manifest cut": (replace("vqtok.json", lambda d: d[:-9]), "cannot be read as JSON"),
    "manifest a list": (replace("vqtok.json", lambda d: b"[]"), "has schema None"),
    "manifest short": (replace("vqtok.json", lambda d: b'{"schema": 1}'), "is missing in it"),
    "name": (edited("vqtok.json", "tokenizer", "name", value="x"), "tokenizer.name: 'x'"),
    "sizes": (edited("vqtok.json", "tokenizer", "codebook_sizes", value=[9]), "codebook_sizes"),
    "print": (edited("vqtok.json", "tokenizer", "fingerprint", "encode", value="0"), "encode: '0'"),
    "option": (edited("vqtok.json", "options", "batch_size", value=9), "options.batch_size: 9"),
    "source": (edited("vqtok.json", "source", "path", value="/x"), "source.path: '/x'"),
    "streams": (edited("vqtok.json", "streams", 0, "axes", value=[]), r"streams\[0\].axes"),
    "total": (edited("vqtok.json", "totals", "tokens", value=1), "totals.tokens: 1"),
    "total gone": (without("vqtok.json", "totals", "ok"), "ok is missing in totals"),
    "use": (edited("vqtok.json", "code_usage", 0, "usage", value=0.5), "usage: 0.5"),
    "digest": (edited("vqtok.json", "units", 1, "sha256", value="0"), r"units\[1\].sha256: '0'"),
    "digest gone": (without("vqtok.json", "units", 1, "sha256"), "sha256 is missing in units"),
    "unit gone": (without("vqtok.json", "units", 1), "vqtok.json says units"),
    "file elsewhere": (edited("vqtok.json", "units", 1, "file", value="../x"), "no file of a run"),
    "entry too many": (edited("vqtok.json", "extra", value=1), "does not write: .'extra'"),
    "commit gone": (removed(COMMIT), f"{COMMIT} is missing"),
    "commit cut": (replace(COMMIT, lambda d: d[:9]), f"{COMMIT} cannot be read"),
    "commit edited": (edited(COMMIT, "rows", value=5), f"{COMMIT} says rows: 5"),
    "commit of nothing": (copied(COMMIT, ".vqtok/commits/00007.json"), "commits/00007.json"),
    "run gone": (removed(RUN), "run.json is missing"),
    "run edited": (edited(RUN, "tokenizer", "name", value="x"), "run.json has 'x'"),
    "run of more units": (edited(RUN, "units", value=4), "units: 4; the plan has 3"),
    "plan gone": (removed(PLAN), "plan.parquet is missing"),
    "plan other": (other_plan, "is not the plan"),
    "plan cut": (replace(PLAN, lambda d: d[:99]), "cannot be read as a plan"),
    "pointer": (replace("tokenizer/pointer.json", lambda d: b"{}"), "pointer.json says name: None"),
    "counts gone": (removed(".vqtok/usage.parquet"), "usage.parquet cannot be read"),
    "counts other": (copied(FIRST, ".vqtok/usage.parquet"), "usage.parquet does not have"),
    "card gone": (removed("README.md"), "README.md cannot be read"),
    "card other": (
        replace("README.md", lambda d: d.replace(b"train-*", b"x-*")),
        "README.md does not name",
    ),
}


@pytest.mark.parametrize(("change", "says"), AROUND.values(), ids=AROUND)
def test_whatever_else_is_changed_is_named(run, change, says):
    change(run)

    assert re.search(says, found(run)), found(run)


def test_a_bit_flipped_anywhere_in_the_data_is_found_and_never_a_crash(run):
    rng = random.Random(0)
    names = [*(path.relative_to(run).as_posix() for path in run.glob("data/*")), "vqtok.json"]
    for _ in range(60):
        path = run / rng.choice(names)
        data = path.read_bytes()
        place = rng.randrange(len(data))
        flip = bytes([data[place] ^ 1 << rng.randrange(7)])
        path.write_bytes(data[:place] + flip + data[place + 1 :])

        same = path.suffix == ".json" and same_json(path.read_bytes(), data)
        assert found(run) or same, (path.name, place)
        path.write_bytes(data)
    assert not found(run)


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_problems_of_several_files_are_all_told(run):
    (run / FIRST).unlink()
    (run / SECOND).write_bytes(b"")

    problems = found(run)

    assert FIRST in problems
    assert SECOND in problems
    assert "not compared" in problems


def test_the_command_ends_with_1_and_names_what_is_wrong(run):
    from typer.testing import CliRunner

    from vqtok.cli import app

    good = CliRunner().invoke(app, ["verify", str(run)])
    (run / FIRST).unlink()
    bad = CliRunner().invoke(app, ["verify", str(run), "--json"])

    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert json.loads(bad.stdout)["verified"] is False
    assert f"{FIRST} is missing" in json.loads(bad.stdout)["problems"][0]


def test_a_file_is_read_a_row_group_at_a_time(run, monkeypatch):
    rewrite(run, lambda table: table, groups=1)
    read = []
    real = UnitCheck._check
    monkeypatch.setattr(
        UnitCheck, "_check", lambda self, table: read.append(len(table)) or real(self, table)
    )

    assert not found(run)
    assert read == [1, 1, 1, 1, 4, 4]


def test_verify_wants_a_finished_run(run):
    (run / "vqtok.json").unlink()

    with pytest.raises(FormatError, match="unfinished"):
        verify_run(run)


def test_the_digest_of_rows_sees_a_single_code_and_not_the_size_of_units(run, written, tmp_path):
    tokenize_dataset(written.parent / "in", tmp_path / "other", FakeTokenizer(), unit_rows=10)
    same = verify_run(tmp_path / "other").rows_digest
    before = verify_run(run).rows_digest
    rewrite(run, with_column("codes", flipped))

    assert before == same
    assert verify_run(run).rows_digest != before
