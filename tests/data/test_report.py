"""Reports: numbers that are the run's, a page that needs nothing else and cannot be attacked."""

import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer, TwoLevels
from tests.data.fake_others import FakeAudio
from vqtok.cli.tables import run_table
from vqtok.data import run_report, tokenize_dataset
from vqtok.data.dispatch import Dispatcher
from vqtok.data.plan import build_plan
from vqtok.data.report import usage_curve
from vqtok.data.report_html import report_page
from vqtok.data.sources import InputShard
from vqtok.data.stages import stage_table, stragglers, timeline
from vqtok.errors import FormatError

EVIL = "<script>alert(1)</script>'\"&\x1b[31m[bold]x.png"


@pytest.fixture
def run(photos, tmp_path):
    tokenize_dataset(photos, tmp_path / "out", FakeTokenizer(), unit_rows=4)
    return tmp_path / "out"


def commit(unit=0, rows=100, published=None, worker="a", **seconds):
    found = {"unit": unit, "rows": rows, "worker": worker, "seconds": seconds}
    return found if published is None else found | {"published": published}


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
    assert {stage["stage"] for stage in report.stages} >= {"read", "encode", "write", "publish"}
    assert report.workers[0]["units"] == 1
    assert (report.units, report.units_planned, report.rows_planned) == (1, 1, 6)
    assert report.wall_seconds >= report.seconds - 0.01  # they are rounded
    assert report.rows_per_second == pytest.approx(6 / report.seconds, rel=0.01)


def test_seconds_of_all_stages_of_the_workers_add_up():
    stages, _ = stage_table([commit(read=1.0, decode=2.0, tokenize=3.0, check=9.0)] * 20)

    by_name = {stage["stage"]: stage for stage in stages}
    assert by_name["encode"]["seconds"] == pytest.approx(60)
    assert by_name["check"]["where"] == "driver"
    shares = [stage["share"] for stage in stages if stage["where"] == "worker"]
    assert np.isclose(sum(shares), 1, atol=1e-3)


def test_percentiles_are_of_units():
    stages, _ = stage_table([commit(tokenize=float(n)) for n in range(100)])

    assert (stages[0]["median"], stages[0]["p95"], stages[0]["slowest"]) == (50, 95, 99)


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        ({"read": 5.0, "tokenize": 1.0}, "read-bound: 83%"),
        ({"read": 0.1, "tokenize": 0.9}, "encode-bound: 90%"),
        ({"decode": 6.0, "tokenize": 2.0}, "decode-bound: 75% .* 4.0 times the decoding threads"),
        ({"tokenize": 1.0, "write": 4.0}, "write-bound: 80%"),
        ({"read": 1.0, "decode": 1.0, "tokenize": 1.0}, "balanced"),
        ({}, "no unit says"),
    ],
)
def test_the_verdict_names_the_stage_with_most_of_the_work(seconds, says):
    _, verdict = stage_table([commit(**seconds)] * 3)

    assert re.match(says, verdict), verdict
    assert "\n" not in verdict


def test_a_driver_that_is_always_busy_is_what_binds_several_workers():
    units = [
        commit(i, published=float(i), worker=str(i % 4), tokenize=4.0, check=0.5, publish=0.4)
        for i in range(20)
    ]

    assert stage_table(units)[1].startswith("publish-bound: the driver was busy 78%") is False
    busy = [unit | {"seconds": unit["seconds"] | {"publish": 0.6}} for unit in units]
    assert stage_table(busy)[1].startswith("publish-bound")


def test_stragglers_are_slow_by_the_row_and_not_by_their_size():
    units = [commit(i, rows=100, tokenize=10.0) for i in range(8)]
    units += [commit(8, rows=400, tokenize=40.0), commit(9, rows=100, tokenize=30.0)]

    found = stragglers(units)

    assert [(unit["unit"], unit["times_median"]) for unit in found] == [(9, 3.0)]
    assert stragglers(units[:3]) == []


def test_the_time_of_a_run_leaves_out_the_night_between_two_parts():
    units = [commit(i, rows=10, published=1000.0 + 10 * i, tokenize=10.0) for i in range(4)]
    units += [commit(i, rows=10, published=90_000.0 + 10 * i, tokenize=10.0) for i in range(4, 6)]

    line, wall = timeline(units)

    assert wall == pytest.approx(60)
    assert line[0] == [0.0, 0]
    assert line[-1] == [60.0, 60]
    long, _ = timeline([commit(i, rows=1, published=float(i), tokenize=1.0) for i in range(5000)])
    assert len(long) <= 202
    assert long[-1][1] == 5000


def test_a_curve_of_even_use_is_flat_and_one_of_a_single_code_is_a_peak():
    flat = usage_curve(np.full(1000, 7))
    peak = usage_curve(np.array([0, 0, 5, 0]))

    assert {y for _, y in flat} == {1.0}
    assert flat[-1][0] == 1.0
    assert peak[0] == [0.25, 4.0]
    assert {y for _, y in peak[1:]} == {0.0}
    assert usage_curve(np.zeros(4, int)) == []


def test_an_unfinished_run_has_a_report_from_what_is_there(run):
    finished = run_report(run)
    (run / "vqtok.json").unlink()
    (run / "data/train-00002-of-00003.parquet").unlink()
    (run / ".vqtok/commits/00002.json").unlink()

    report = run_report(run)

    assert not report.finished
    assert (report.units, report.units_planned) == (2, 3)
    assert (report.rows, report.rows_planned) == (8, 10)
    assert report.codebooks_from == "2 of 2 files"
    codes = {c for path in run.glob("data/*") for row in pq.read_table(path)["codes"] for c in row}
    assert report.codebooks[0]["usage"] == pytest.approx(len(codes) / 4096)
    assert finished.codebooks_from == "all files"
    assert "not finished, 2 of 3 files" in run_table(report.to_dict())
    assert "not finished, 2 of 3 files" in report_page(report)


def test_a_run_of_which_nothing_is_published_has_a_report(run):
    shutil.rmtree(run / "data")
    shutil.rmtree(run / ".vqtok/commits")
    (run / "vqtok.json").unlink()

    report = run_report(run)

    assert (report.rows, report.bytes_per_token, report.rows_per_second) == (0, None, None)
    assert "no unit says" in report.verdict
    assert "not finished" in run_table(report.to_dict())
    assert "<svg" in report_page(report)


def test_a_finished_run_that_lost_its_commits_still_says_what_it_holds(run):
    whole = run_report(run)
    shutil.rmtree(run / ".vqtok/commits")

    report = run_report(run)

    assert (report.rows, report.tokens, report.bytes) == (whole.rows, whole.tokens, whole.bytes)
    assert report.adopted == 3


def test_a_damaged_file_is_named_by_the_report(run):
    (run / "vqtok.json").unlink()
    (run / "data/train-00001-of-00003.parquet").write_bytes(b"PAR1")

    with pytest.raises(FormatError, match="cannot be read"):
        run_report(run)


def test_sound_is_told_in_times_of_real_time(tmp_path):
    import soundfile

    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        soundfile.write(tmp_path / f"in/{index}.wav", rng.uniform(-0.5, 0.5, 8000), 8000)
    tokenize_dataset(tmp_path / "in", tmp_path / "out", FakeAudio())

    report = run_report(tmp_path / "out")

    assert report.times_real_time == pytest.approx(3 / report.seconds, rel=0.01)
    words = run_table(report.to_dict()).replace("│", " ").split()  # a cell may be wrapped
    assert "times real time" in " ".join(words)
    assert "times real time" in report_page(report)


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; whatever could load something is an error."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attributes:
            assert name not in ("src", "href", "xlink:href", "srcset", "action", "data"), value
            assert not name.startswith("on"), name
            assert "url(" not in (value or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else_and_names_cannot_attack_it(tmp_path):
    (tmp_path / "in").mkdir()
    for name, data in ((EVIL.replace("/", "_"), b"x"), ("ok.png", png(1))):
        (tmp_path / "in" / name).write_bytes(data)
    tokenizer = FakeTokenizer()
    tokenizer.name_or_path = "</title><img onerror=alert(1)>"
    tokenize_dataset(tmp_path / "in", tmp_path / "out <b>", tokenizer)
    report = run_report(tmp_path / "out <b>")

    text = report_page(report)
    page = Page(text)

    assert not {"script", "img", "b", "link", "iframe", "object"} & set(page.tags)
    assert "<script>alert(1)<_script>" in page.text
    assert "\\x1b[31m" in page.text
    assert page.tags.count("svg") >= 3
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_a_name_cannot_steer_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / EVIL.replace("/", "_")).write_bytes(b"x")
    tokenize_dataset(tmp_path / "in", tmp_path / "out", FakeTokenizer())

    text = run_table(run_report(tmp_path / "out").to_dict())

    assert "\x1b" not in text
    assert "\\x1b[31m[bold]x.png" in text


def test_plots_of_several_levels_lie_inside_their_frames(photos, tmp_path):
    tokenize_dataset(photos, tmp_path / "out", TwoLevels(), unit_rows=2)

    text = report_page(run_report(tmp_path / "out"))

    Page(text)
    plots = re.findall(r"<svg viewBox='0 0 (\d+) (\d+)'.*?</svg>", text)
    drawn = re.findall(r"<svg.*?</svg>", text)
    assert len(plots) == len(drawn) >= 4
    for (width, height), body in zip(plots, drawn, strict=True):
        for points in re.findall(r"points='([^']*)'", body):
            for point in points.split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= int(width)
                assert 0 <= y <= int(height)
    assert text.count("<polyline") == 3  # rows over time, and two codebooks


def test_the_command_writes_the_page_and_the_same_numbers_as_json(run, tmp_path):
    from typer.testing import CliRunner

    from vqtok.cli import app

    target = tmp_path / "new/page.html"
    result = CliRunner().invoke(app, ["report", str(run), "--html", str(target), "--json"])

    assert result.exit_code == 0
    assert json.loads(result.stdout) == run_report(run).to_dict()
    assert Path(target).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_units_that_were_made_again_are_counted(run):
    path = run / ".vqtok/commits/00001.json"
    stored = json.loads(path.read_text())
    assert stored["worker_ends"] == 0
    path.write_text(json.dumps(stored | {"worker_ends": 2}))

    report = run_report(run)

    assert report.worker_ends == 2
    assert "2 times a worker ended on a unit" in run_table(report.to_dict())


def test_a_worker_that_ends_on_a_unit_is_counted_for_that_unit():
    units = build_plan([InputShard("a", 1, "x", rows=6)], 3).units
    dispatcher = Dispatcher(units)

    dispatcher.next()
    dispatcher.ended(0, "signal 9")

    assert [dispatcher.ends(unit.unit_id) for unit in units] == [1, 0]
