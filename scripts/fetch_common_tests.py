"""Puts transformers' own common model tests into .cache/, in the version that is installed.

They are not in its wheel, but in the source distribution on PyPI, which holds tests/test_*.py and
none of their sub-folders; what is imported from those is written here as an empty class. The suite
runs them on our models (tests/models/test_transformers_common.py). Run by scripts/test.sh; a second
run does nothing.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath

CACHE = Path(__file__).resolve().parents[1] / ".cache"
PACKAGE = "transformers_tests"
# what test_modeling_common.py imports from sub-folders that PyPI does not have
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def folder() -> Path:
    """Where the tests of the installed transformers lie, or will lie."""
    return CACHE / f"transformers-{version('transformers')}"


def main() -> int:
    target = folder()
    if target.is_dir():
        return 0
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        archive = download(Path(scratch))
        package = Path(scratch) / "made" / PACKAGE
        unpack(archive, package)
        for name, text in STUBS.items():
            path = package / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.with_name("__init__.py").write_text("", encoding="utf-8")
        (package / "__init__.py").write_text("", encoding="utf-8")
        shutil.move(package.parent, target)  # last, so that a broken download leaves nothing
    print(f"transformers {version('transformers')}: its common tests are in {target}")
    return 0


def download(scratch: Path) -> Path:
    wanted = f"transformers=={version('transformers')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "transformers", "--dest", str(scratch), wanted]
    subprocess.run(command, check=True)
    (archive,) = scratch.glob("transformers-*.tar.gz")
    return archive


def unpack(archive: Path, package: Path) -> None:
    """The files tests/test_*.py of the archive, by name alone: no path of it is followed."""
    package.mkdir(parents=True)
    with tarfile.open(archive) as files:
        for member in files:
            path = PurePosixPath(member.name)
            if member.isfile() and len(path.parts) == 3 and path.match("tests/test_*.py"):
                (package / path.name).write_bytes(files.extractfile(member).read())


if __name__ == "__main__":
    sys.exit(main())
