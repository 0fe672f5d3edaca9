"""Progress: right figures, a bar on a terminal, log files without control characters."""

import io
import json
import sys

import pytest

from tests.data.fake import FakeTokenizer
from tests.data.fake_others import FakeAudio
from vqtok.data import decode_dataset, tokenize_dataset, verify_run
from vqtok.data.progress import JsonLines, Lines, Silent, TerminalBar, chosen_style, progress_of
from vqtok.errors import ConfigError


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock():
    return Clock()


def unit(rows: int, tokens: int, bad: int = 0) -> dict:
    return {"rows": rows, "tokens": tokens, "bad": bad}


def test_speeds_share_and_time_left_are_those_of_the_rows_done_so_far(clock):
    bar = Silent(1000, "tokenize", 200.0, clock)
    for _ in range(10):
        clock.now += 2
        bar(20)
    before = bar.figures()
    bar.unit(unit(100, 1600, bad=4))

    figures = bar.figures()

    assert (before["tokens_per_second"], before["bad_frac"]) == (None, None)
    assert figures["rows_per_second"] == pytest.approx(10)
    assert figures["tokens_per_second"] == pytest.approx(160)
    assert figures["times_real_time"] == pytest.approx(0.8)
    assert figures["bad_frac"] == pytest.approx(0.04)
    assert figures["eta_seconds"] == pytest.approx(80)


def test_tokens_a_second_change_with_every_row_and_not_only_with_units(clock):
    bar = Silent(1000, "tokenize", None, clock)
    clock.now += 10
    bar(100)
    bar.unit(unit(100, 1600))
    clock.now += 10
    bar(50)

    assert bar.figures()["tokens_per_second"] == pytest.approx(16 * 150 / 20)


def test_rows_of_an_earlier_run_are_done_but_say_nothing_about_speed(clock):
    bar = Silent(1000, "tokenize", None, clock)
    bar.adopted(900)
    clock.now += 10
    bar(10)

    figures = bar.figures()

    assert figures["rows"] == 910
    assert figures["rows_per_second"] == pytest.approx(1)
    assert figures["eta_seconds"] == pytest.approx(90)


def test_the_speed_is_that_of_the_last_minute_and_lost_work_is_taken_back(clock):
    bar = Silent(10_000, "tokenize", None, clock)
    for _ in range(100):
        clock.now += 1
        bar(1)
    for _ in range(70):
        clock.now += 1
        bar(9)
    fast = bar.figures()["rows_per_second"]
    bar(-700)

    assert fast == pytest.approx(9, rel=0.2)
    assert bar.figures()["rows"] == 30
    assert bar.figures()["rows_per_second"] == 0
    assert bar.figures()["eta_seconds"] is None


def test_a_log_file_gets_few_whole_lines_without_control_characters(clock, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    bar = chosen_style("bar")(960, "tokenize", None, clock)
    for _ in range(960):
        clock.now += 0.125
        bar(1)
        bar.unit(unit(1, 16))
    bar.close()

    text = out.getvalue()

    assert isinstance(bar, Lines)
    assert set(text) - {"\n"} <= set(map(chr, range(32, 127)))
    lines = text.splitlines()
    assert len(lines) == 5  # after 5, 35, 65 and 95 seconds, and at the end
    assert lines[0] == (
        "tokenize: 40 of 960 rows (4.2%), 8 rows/s, 128 tokens/s, 0.0% bad, 01:55 left"
    )
    assert "960 of 960 rows (100.0%)" in lines[-1]


def test_a_terminal_gets_a_bar(clock, monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)

    with progress_of(10, True, "decode") as bar:
        bar(10)

    assert isinstance(bar, TerminalBar)
    assert "\r" in out.getvalue()
    assert "10/10 rows" in out.getvalue()


def test_json_lines_are_one_object_each(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)

    with progress_of(10, "json", "decode") as bar:
        bar(4)
        bar(6)

    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert isinstance(bar, JsonLines)
    assert found[-1]["event"] == "progress"
    assert (found[-1]["rows"], found[-1]["total"], found[-1]["eta_seconds"]) == (10, 10, 0.0)


def test_another_word_is_refused_before_anything_is_written(photos, tmp_path):
    with pytest.raises(ConfigError, match="progress must be one of"):
        tokenize_dataset(photos, tmp_path / "out", FakeTokenizer(), progress="dots")
    assert not (tmp_path / "out").exists()


def test_runs_of_every_command_end_with_all_rows_told(photos, tmp_path, capsys):
    out = tmp_path / "out"
    tokenize_dataset(photos, out, FakeTokenizer(), unit_rows=4, progress="json")
    (out / "vqtok.json").unlink()
    (out / "data/train-00001-of-00003.parquet").unlink()
    tokenize_dataset(photos, out, FakeTokenizer(), resume=True, progress="json")
    verify_run(out, progress="json")
    decode_dataset(out, tmp_path / "back", FakeTokenizer(), progress="json")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line[0] == "{"]

    last = {line["label"]: line for line in lines}
    assert {label: (line["rows"], line["total"]) for label, line in last.items()} == {
        label: (10, 10) for label in ("tokenize", "verify", "decode")
    }
    assert last["tokenize"]["times_real_time"] is None


def test_sound_is_told_in_times_of_real_time(tmp_path, capsys):
    import numpy as np
    import soundfile

    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        sound = rng.uniform(-0.5, 0.5, 8000)
        soundfile.write(tmp_path / f"in/{index}.wav", sound, 8000)

    tokenize_dataset(tmp_path / "in", tmp_path / "out", FakeAudio(), progress="json")

    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    # the fake gives 2,000 codes for a second
    assert last["times_real_time"] == pytest.approx(last["tokens_per_second"] / 2000, rel=0.01)
