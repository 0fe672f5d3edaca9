"""`vqtok plan`, `status`, `verify` and `report`: what they print and how they end."""

import json

import pytest

TOKENIZER = ("--tokenizer", "fake/mean-colour")


def only_line(result) -> dict:
    (line,) = result.stdout.splitlines()
    return json.loads(line)


@pytest.fixture
def codes(vqtok_command, mixed, tmp_path):
    vqtok_command("tokenize", mixed[0], *TOKENIZER, "--out", tmp_path / "codes", "--unit-rows", 4)
    return tmp_path / "codes"


def test_a_run_is_planned_looked_at_verified_and_reported(vqtok_command, mixed, codes, tmp_path):
    planned = vqtok_command("plan", mixed[0], "--unit-rows", 4, "--json")
    status = vqtok_command("status", codes, "--json")
    verified = vqtok_command("verify", codes, "--json")
    report = vqtok_command("report", codes, "--json", "--html", tmp_path / "pages/run.html")

    assert [r.exit_code for r in (planned, status, verified, report)] == [0] * 4
    assert only_line(planned)["units"] == only_line(status)["units_done"] == 2
    assert only_line(verified)["verified"] is True
    assert only_line(report)["bad"] == {"decode_error": 2, "empty": 1, "too_large": 1}
    assert "<svg" in (tmp_path / "pages/run.html").read_text()


def test_for_a_person_they_say_it_in_words(vqtok_command, mixed, codes):
    assert "6 inputs in 6 files" in vqtok_command("plan", mixed[0]).stdout
    assert "finished, 2 of 2 files" in vqtok_command("status", codes).stdout
    assert "each planned input once" in vqtok_command("verify", codes).stdout
    report = vqtok_command("report", codes).stdout
    for words in ("bytes per token", "stage encode", "codebook 0", "too_large"):
        assert words in report


def test_verify_is_exit_code_1_for_a_run_that_changed(vqtok_command, codes):
    manifest = json.loads((codes / "vqtok.json").read_text())
    manifest["totals"]["tokens"] += 1
    (codes / "vqtok.json").write_text(json.dumps(manifest))

    result = vqtok_command("verify", codes, "--json")

    assert result.exit_code == 1
    assert only_line(result)["verified"] is False
    assert "not what it should be" in result.stderr


@pytest.mark.parametrize("command", ["status", "verify", "report"])
def test_a_folder_without_a_run_is_exit_code_1(vqtok_command, tmp_path, command):
    result = vqtok_command(command, tmp_path)

    assert result.exit_code == 1
    assert "not a folder of codes" in result.stderr


def test_a_task_of_many_makes_its_share_and_the_last_one_finishes(vqtok_command, photos, tmp_path):
    command = ("tokenize", photos, *TOKENIZER, "--out", tmp_path / "codes", "--unit-rows", 4)
    share = ("--executor", "shard", "--num-tasks", 2, "--json")

    first = vqtok_command(*command, *share, "--task-index", 0)
    between = vqtok_command("status", tmp_path / "codes", "--json")
    second = vqtok_command(*command, *share, "--task-index", 1)

    assert only_line(first)["missing_units"] == 1
    assert only_line(between)["finished"] is False
    assert only_line(second)["missing_units"] == 0
    assert only_line(second)["rows"] == 10
    assert vqtok_command("verify", tmp_path / "codes").exit_code == 0
