"""The quickstart shows every photo over its reconstruction, and does nothing twice."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]


def quickstart(out: Path) -> str:
    run = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "quickstart.py", "--out", out],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return run.stdout


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.slow
def test_a_first_run_makes_every_result_and_a_second_changes_nothing(tmp_path, sample_photos):
    first = quickstart(tmp_path)
    made = state(tmp_path)
    second = quickstart(tmp_path)

    assert "$ vqtok tokenize" in first
    assert "$ vqtok" not in second
    assert state(tmp_path) == made
    assert (tmp_path / "codes" / "vqtok.json").is_file()
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["photo"] for row in report["photos"]] == [path.name for path in sample_photos]
    for row, path in zip(report["photos"], sample_photos, strict=True):
        with Image.open(path) as photo, Image.open(decoded(tmp_path, path)) as back:
            assert back.size == photo.size
        assert path.name in first
        assert path.name in second
        assert row["psnr_db"] > 18
        assert 0.1875 <= row["bits"] / (row["width"] * row["height"]) < 0.2
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 1200
        assert sheet.height > 1200


@pytest.fixture
def finished(tmp_path) -> Path:
    (tmp_path / "sheet.png").write_bytes(b"picture")
    script = runpy.run_path(str(REPOSITORY / "scripts" / "quickstart.py"))
    outputs = {"sheet.png": script["digest"]([tmp_path / "sheet.png"])}
    (tmp_path / "report.json").write_text(json.dumps({"inputs": "abc", "outputs": outputs}))
    return tmp_path


def finished_report(out: Path, inputs: str) -> dict | None:
    script = runpy.run_path(str(REPOSITORY / "scripts" / "quickstart.py"))
    return script["finished_report"](out, inputs)


def test_whole_results_of_the_same_inputs_are_kept(finished):
    assert finished_report(finished, "abc") is not None


def test_results_of_other_inputs_are_made_again(finished):
    assert finished_report(finished, "abd") is None


def test_a_damaged_or_missing_result_is_made_again(finished):
    (finished / "sheet.png").write_bytes(b"pict")
    assert finished_report(finished, "abc") is None

    (finished / "sheet.png").unlink()
    assert finished_report(finished, "abc") is None


def decoded(out: Path, photo: Path) -> Path:
    (found,) = (out / "decoded").rglob(f"{photo.stem}*.png")
    return found
