"""A run that was killed anywhere and resumed holds the rows of one that was not."""

import errno
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.conftest import png
from tests.data.fake import FakeTokenizer
from tests.data.killable import KillableRuns
from tests.data.rows import codes_of
from vqtok.data import load_codes, tokenize_dataset
from vqtok.data.failpoints import EXIT_CODE, POINTS, failpoint
from vqtok.data.publish import LocalStore
from vqtok.errors import ConfigError, FingerprintError, FormatError, InputError

UNITS = 3


@pytest.fixture(scope="module")
def run_process(tmp_path_factory) -> Iterator[KillableRuns]:
    """Tokenizes in a process that may die; see `KillableRuns`."""
    runs = KillableRuns(tmp_path_factory.mktemp("runs") / "stderr.txt")
    yield runs
    runs.stop()


@pytest.fixture
def clean(photos, tmp_path, tokenizer) -> list[tuple]:
    """The rows of a run that nothing interrupted."""
    tokenize_dataset(photos, tmp_path / "clean", tokenizer, unit_rows=4)
    return codes_of(tmp_path / "clean")


OF_THE_RUN = ("after_run", "after_plan", "before_manifest")  # and not of a unit


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_any_point_resumes_to_the_same_rows(
    point, workers, photos, tmp_path, tokenizer, clean, run_process
):
    out, unit = tmp_path / "out", "" if point in OF_THE_RUN else ":1"
    of_worker = point == "mid_encode" and workers > 1  # whose driver then goes on

    once = {"once": str(tmp_path / "died")} if of_worker else {}
    killed = run_process(photos, out, f"{point}{unit}", workers=workers, **once)
    unfinished = not (out / "vqtok.json").exists()
    tokenize_dataset(photos, out, tokenizer, unit_rows=4, resume=True)

    assert killed == (0 if of_worker else EXIT_CODE)
    assert unfinished != of_worker
    assert (tmp_path / "died").exists() == of_worker
    assert codes_of(out) == clean
    assert load_codes(out).num_rows == 10
    assert list((out / ".vqtok/tmp").iterdir()) == []
    commits = [json.loads(p.read_text()) for p in sorted((out / ".vqtok/commits").iterdir())]
    assert [commit["unit"] for commit in commits] == list(range(UNITS))


def test_many_crashes_one_after_the_other_lose_and_repeat_nothing(
    photos, tmp_path, clean, run_process
):
    out = tmp_path / "out"

    kills = ["after_link:0", "torn_write:1", "after_fsync:1", "after_commit:1", "before_manifest"]
    codes = [run_process(photos, out, kill, resume=bool(i)) for i, kill in enumerate(kills)]
    last = run_process(photos, out, resume=True)

    assert [*codes, last] == [EXIT_CODE] * len(kills) + [0]
    assert codes_of(out) == clean


def test_published_units_are_not_made_again(photos, tmp_path, run_process):
    class Counting(FakeTokenizer):
        made = 0

        def _one(self, item):
            self.made += 1
            return super()._one(item)

    out, tokenizer = tmp_path / "out", Counting()
    run_process(photos, out, "before_commit:1")

    report = tokenize_dataset(photos, out, tokenizer, resume=True)

    assert report.resumed_units == 2
    assert tokenizer.made == 2


def test_resuming_a_finished_run_changes_nothing(photos, tmp_path, tokenizer):
    out = tmp_path / "out"
    tokenize_dataset(photos, out, tokenizer, unit_rows=4)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    report = tokenize_dataset(photos, out, tokenizer, resume=True)

    assert report.resumed_units == report.units == UNITS
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_resume_on_a_new_folder_starts_a_run(photos, tmp_path, tokenizer):
    report = tokenize_dataset(photos, tmp_path / "new", tokenizer, resume=True)

    assert (report.rows, report.resumed_units) == (10, 0)


@pytest.fixture
def interrupted(photos, tmp_path, run_process) -> Path:
    out = tmp_path / "interrupted"
    assert run_process(photos, out, "after_commit:1") == EXIT_CODE
    return out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unit_rows": 5}, "unit_rows.*4.*5"),
        ({"batch_size": 2}, "batch_size.*None.*2"),
    ],
)
def test_resume_refuses_another_option_and_names_it(photos, interrupted, tokenizer, options, says):
    with pytest.raises(ConfigError, match=says):
        tokenize_dataset(photos, interrupted, tokenizer, resume=True, **options)


@pytest.mark.parametrize("part", ["encode", "decode", "codebook"])
def test_resume_refuses_another_tokenizer_and_names_the_part(photos, interrupted, part):
    other = FakeTokenizer(**{part: "0" * 64})

    with pytest.raises(FingerprintError, match=f"{part} fingerprint"):
        tokenize_dataset(photos, interrupted, other, resume=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: (root / "a/3.PNG").write_bytes(png(99, 80, 80)), "a/3.PNG had"),
        (lambda root: os.utime(root / "a/3.PNG", ns=(1, 1)), "a/3.PNG was written again"),
        (lambda root: (root / "a/3.PNG").unlink(), "a/3.PNG is gone"),
        (lambda root: (root / "a/new.png").write_bytes(png(99)), "a/new.png is new"),
    ],
)
def test_resume_refuses_a_changed_source_and_names_the_file(
    photos, interrupted, tokenizer, change, says
):
    change(photos)

    with pytest.raises(InputError, match=says):
        tokenize_dataset(photos, interrupted, tokenizer, resume=True)


def test_a_source_that_moved_as_a_whole_resumes(photos, interrupted, tokenizer, clean):
    moved = photos.rename(photos.parent / "moved")

    tokenize_dataset(moved, interrupted, tokenizer, resume=True)

    assert codes_of(interrupted) == clean


def test_a_published_file_that_was_damaged_is_refused(photos, interrupted, tokenizer):
    damaged = interrupted / "data/train-00000-of-00003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-10])

    with pytest.raises(FormatError, match="train-00000-of-00003"):
        tokenize_dataset(photos, interrupted, tokenizer, resume=True)


def test_a_file_of_another_run_is_refused(photos, mixed, interrupted, tmp_path, tokenizer):
    tokenize_dataset(photos, tmp_path / "other", tokenizer, unit_rows=4, num_codebooks=1)
    os.utime(photos / "a/3.PNG", ns=(1, 1))
    tokenize_dataset(photos, tmp_path / "stranger", tokenizer, unit_rows=4)
    name = "data/train-00000-of-00003.parquet"
    own = (tmp_path / "other" / name).read_bytes()
    strange = (tmp_path / "stranger" / name).read_bytes()

    (tmp_path / "other/vqtok.json").unlink()
    (tmp_path / "other/.vqtok/commits/00000.json").unlink()
    (tmp_path / "other" / name).write_bytes(strange)

    assert own != strange
    with pytest.raises((FormatError, InputError)):
        tokenize_dataset(photos, tmp_path / "other", tokenizer, resume=True)


def test_a_finished_run_that_lost_a_file_is_refused(photos, tmp_path, tokenizer):
    tokenize_dataset(photos, tmp_path / "out", tokenizer, unit_rows=4)
    (tmp_path / "out/data/train-00001-of-00003.parquet").unlink()

    with pytest.raises(FormatError, match="train-00001-of-00003"):
        tokenize_dataset(photos, tmp_path / "out", tokenizer, resume=True)


def test_a_second_driver_is_refused_and_told_who_is_the_first(photos, interrupted, tokenizer):
    first = rf"\(process {os.getpid()} on {re.escape(socket.gethostname())}, since 20.*\); wait"
    with LocalStore(interrupted).lock(), pytest.raises(ConfigError, match=first):
        tokenize_dataset(photos, interrupted, tokenizer, resume=True)
    with LocalStore(interrupted).lock(shared=True), pytest.raises(ConfigError, match="tasks that"):
        tokenize_dataset(photos, interrupted, tokenizer, resume=True)

    tokenize_dataset(photos, interrupted, tokenizer, resume=True)
    assert (interrupted / ".vqtok/lock").read_text() == ""


def test_a_resume_says_that_the_last_process_was_killed(photos, interrupted, tokenizer, caplog):
    tokenize_dataset(photos, interrupted, tokenizer, resume=True)
    (killed,) = [r.getMessage() for r in caplog.records if "was killed or crashed" in r.message]
    caplog.clear()
    tokenize_dataset(photos, interrupted, tokenizer, resume=True)

    assert "process " in killed
    assert "more than one worker" in killed
    assert "killed" not in caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_warning(
    number, photos, tmp_path, tokenizer, clean, monkeypatch, caplog
):
    def no_locks(handle, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    tokenize_dataset(photos, tmp_path / "out", tokenizer, unit_rows=4)

    assert "has no file locks: start one driver per folder" in caplog.text
    assert LocalStore(tmp_path / "out").is_locked() is None
    assert codes_of(tmp_path / "out") == clean


def test_the_first_publish_wins(tmp_path):
    store = LocalStore(tmp_path)
    with store.lock():
        results = [store.publish("data/x", data) for data in (b"first", b"second")]

    assert results == [True, False]
    assert store.path("data/x").read_bytes() == b"first"


def test_publishing_works_without_hard_links(tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = LocalStore(tmp_path)
    with store.lock():
        results = [store.publish("data/x", data) for data in (b"first", b"second")]

    assert results == [True, False]
    assert store.path("data/x").read_bytes() == b"first"
    assert list(store.path(".vqtok/tmp").iterdir()) == []


def test_an_unknown_failpoint_is_an_error(monkeypatch):
    monkeypatch.setenv("VQTOK_FAIL", "after_lunch:3")

    with pytest.raises(ConfigError, match="after_lunch"):
        failpoint("after_link", 3)


def test_a_run_that_fails_by_itself_is_not_taken_for_a_kill(photos, run_process, tmp_path):
    with pytest.raises(RuntimeError, match="does not exist"):
        run_process(photos / "missing", tmp_path / "out")
