"""Plan, status, verify and report: what they say is so, and what they find."""

import html.parser
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.fake import FakeTokenizer
from vqtok.data import plan_dataset, run_report, run_status, tokenize_dataset, verify_run
from vqtok.data.publish import LocalStore
from vqtok.data.report import stage_table
from vqtok.data.report_html import report_page
from vqtok.errors import FormatError

FIRST = "data/train-00000-of-00003.parquet"


@pytest.fixture
def run(photos, tmp_path):
    tokenize_dataset(photos, tmp_path / "out", FakeTokenizer(), unit_rows=4)
    return tmp_path / "out"


def test_a_plan_is_what_tokenize_will_do(photos, run):
    plan = plan_dataset(photos, unit_rows=4)

    stored = json.loads((run / ".vqtok/run.json").read_text())
    assert (plan.rows, plan.units, plan.ignored) == (10, 3, 2)
    assert plan.plan_hash == stored["plan_hash"]


def test_status_counts_what_is_published(run):
    finished = run_status(run)
    (run / "vqtok.json").unlink()
    (run / FIRST).unlink()
    (run / ".vqtok/commits/00000.json").unlink()
    with LocalStore(run).lock():
        running = run_status(run)
    stopped = run_status(run)

    assert (finished.finished, finished.units_done, finished.rows_done) == (True, 3, 10)
    assert (running.running, running.units_done, running.rows_done) == (True, 2, 6)
    assert (stopped.running, stopped.next_missing) == (False, [0])
    assert "--resume" in stopped.summary()


def test_a_run_as_it_was_written_is_verified(run):
    report = verify_run(run)

    assert report.problems == []
    assert report.rows == 10
    assert report.to_dict()["verified"] is True


def rewrite(run, change, resign=True) -> None:
    """Another table under the name of the first unit, with the old metadata."""
    table = pq.read_table(run / FIRST)
    changed = change(table).replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, run / FIRST)
    if resign:
        manifest = json.loads((run / "vqtok.json").read_text())
        data = (run / FIRST).read_bytes()
        import hashlib

        manifest["units"][0] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest["totals"]["bytes"] = sum(unit["bytes"] for unit in manifest["units"])
        (run / "vqtok.json").write_text(json.dumps(manifest))


def with_column(name, values):
    def change(table):
        kind = table.schema.field(name).type
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.slice(1), "holds 3 rows; the plan has 4"),
        (lambda table: table.take([1, 0, 2, 3]), "row 0 should be of"),
        (lambda table: table.take([0, 0, 2, 3]), "row 1 should be of"),
        (with_column("status", ["ok", "ok", "crash", "ok"]), "exactly where the status is ok"),
        (with_column("codes_fp", ["d" * 16] * 3 + ["0" * 16]), "other tokenizers"),
        (with_column("unit", [0, 0, 1, 0]), "another unit"),
        (with_column("shape", [[1, 1, 1]] * 4), "the shape"),
        (with_column("codes", [[9999]] * 4), "holds code 9999"),
    ],
)
def test_verify_finds_a_file_that_is_not_what_the_plan_says(run, change, says):
    rewrite(run, change)

    report = verify_run(run)

    assert any(says in problem for problem in report.problems), report.problems
    assert "NOT" in report.summary()


def test_verify_finds_changed_bytes_totals_usage_and_strangers(run):
    (run / "data/extra.parquet").write_bytes(b"")
    manifest = json.loads((run / "vqtok.json").read_text())
    manifest["totals"]["tokens"] += 1
    manifest["code_usage"][0]["usage"] = 0.5
    manifest["units"][1]["sha256"] = "0" * 64
    (run / "vqtok.json").write_text(json.dumps(manifest))

    problems = "\n".join(verify_run(run).problems)

    for says in ("sum of tokens", "codes are not used", "sha256 is", "extra.parquet"):
        assert says in problems


def test_verify_wants_a_finished_run_with_its_plan(run):
    (run / ".vqtok/plan.parquet").unlink()
    with pytest.raises(FormatError, match="not known"):
        verify_run(run)
    (run / "vqtok.json").unlink()
    with pytest.raises(FormatError, match="unfinished"):
        verify_run(run)


def test_the_digest_of_rows_sees_a_single_code(run, photos, tmp_path):
    other = tmp_path / "other"
    tokenize_dataset(photos, other, FakeTokenizer(), unit_rows=10)
    same = verify_run(other).rows_digest

    def flip(table):
        codes = table["codes"].to_pylist()
        codes[2][-1] ^= 1
        return with_column("codes", codes)(table)

    before = verify_run(run).rows_digest
    rewrite(run, flip)

    assert before != verify_run(run).rows_digest
    assert before == same


def test_a_report_has_the_numbers_of_the_run(mixed, tmp_path):
    tokenize_dataset(mixed[0], tmp_path / "out", FakeTokenizer())

    report = run_report(tmp_path / "out")

    values = report.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert report.bad == {"decode_error": 2, "empty": 1, "too_large": 1}
    assert [row["src"] for row in report.examples] == [
        "b_truncated.png", "c_empty.png", "d_huge.png", "e_text.jpg",
    ]  # fmt: skip
    assert report.bytes_per_token == report.bytes / report.tokens
    assert report.least_bytes_per_token == 1.5
    assert {stage["stage"] for stage in report.stages} >= {"read", "tokenize", "write", "publish"}
    assert report.workers[0]["units"] == 1


def test_what_a_run_is_bound_by_is_the_stage_with_most_of_the_work():
    def unit(read, tokenize):
        return {"seconds": {"read": read, "tokenize": tokenize, "write": 0.1, "publish": 9.0}}

    stages, reading = stage_table([unit(5.0, 1.0)] * 20)
    _, tokenizing = stage_table([unit(0.1, 1.0)])
    _, nothing = stage_table([])

    assert reading.startswith("reading-bound")
    assert tokenizing.startswith("tokenizer-bound")
    assert nothing == "not bound by one stage"
    assert stages[0]["seconds"] == pytest.approx(100)
    assert np.isclose(sum(s["share"] for s in stages if s["where"] == "worker"), 1, atol=1e-3)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert name not in ("src", "href"), value

    def handle_data(self, data):
        self.text += data


def test_the_page_of_a_report_needs_nothing_else_and_escapes_names(mixed, tmp_path):
    (mixed[0] / "<script>x.png").write_bytes(b"")
    tokenize_dataset(mixed[0], tmp_path / "out", FakeTokenizer())

    page = Page()
    page.feed(report_page(run_report(tmp_path / "out")))

    assert "script" not in page.tags
    assert "<script>x.png" in page.text
    assert page.tags.count("svg") >= 3
