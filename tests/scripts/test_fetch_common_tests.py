import importlib.util
import io
import tarfile
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_common_tests.py"
spec = importlib.util.spec_from_file_location("fetch_common_tests", SCRIPT)
fetch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetch)


def archive_of(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as files:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            files.addfile(member, io.BytesIO(name.encode()))
    return path


def test_only_the_test_files_are_taken_and_no_path_is_followed(tmp_path):
    names = [
        "t-1/tests/test_a.py",
        "t-1/tests/conf.py",
        "t-1/src/test_b.py",
        "t-1/tests/x/test_c.py",
    ]
    archive = archive_of(
        tmp_path / "t.tar.gz", [*names, "../tests/test_evil.py", "/tests/test_d.py"]
    )

    fetch.unpack(archive, tmp_path / "package")

    found = {path.name: path.read_text() for path in (tmp_path / "package").iterdir()}
    assert found["test_a.py"] == "t-1/tests/test_a.py"
    assert set(found) <= {"test_a.py", "test_evil.py", "test_d.py"}
    assert not (tmp_path / "tests").exists()


def test_a_second_run_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "folder", lambda: tmp_path)
    monkeypatch.setattr(fetch, "download", lambda scratch: 1 / 0)

    assert fetch.main() == 0


def test_the_stubs_make_the_package_importable(tmp_path, monkeypatch):
    archive = archive_of(tmp_path / "t.tar.gz", ["t-1/tests/test_modeling_common.py"])
    monkeypatch.setattr(fetch, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(fetch, "download", lambda scratch: archive)

    assert fetch.main() == 0

    package = fetch.folder() / fetch.PACKAGE
    assert (package / "test_modeling_common.py").is_file()
    for stub in fetch.STUBS:
        assert (package / stub).with_name("__init__.py").is_file()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [fetch.folder().name]
