"""scripts/setup.sh installs once, and again when what it installed no longer fits."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A project with a virtual environment whose pip only writes down what it was told."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'toy'\n")
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'if [ "$2" = pip ]; then echo "$@" >>{tmp_path}/calls\n'
        f'else exec {sys.executable} "$@"; fi\n'
    )
    python.chmod(0o755)
    return tmp_path


def installs(checkout: Path) -> list[str]:
    """Sources setup.sh and returns the pip installs that it asked for."""
    (checkout / "calls").unlink(missing_ok=True)
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source {REPOSITORY}/scripts/setup.sh"],
        cwd=checkout,
        env={"VENV": str(checkout / "venv"), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )
    calls = (checkout / "calls").read_text().splitlines()
    return [call for call in calls if " install " in call]


def test_a_first_run_installs_pip_and_the_package(checkout):
    first = installs(checkout)

    assert len(first) == 2
    assert first[0].endswith("--upgrade pip>=25.1")
    assert first[1].endswith("--editable .")


def test_a_second_run_installs_nothing(checkout):
    installs(checkout)

    assert installs(checkout) == []


def test_a_changed_project_is_installed_again(checkout):
    installs(checkout)
    (checkout / "pyproject.toml").write_text("[project]\nname = 'other'\n")

    assert any("--editable ." in call for call in installs(checkout))


def test_a_failed_install_is_tried_again_and_fails_the_script(checkout):
    python = checkout / "venv" / "bin" / "python"
    works = python.read_text()
    python.write_text(works.replace("fi\n", 'fi\n[ "$3" != install ]\n'))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        installs(checkout)
    python.write_text(works)

    assert "pip could not install" in failed.value.stderr.decode()
    assert len(installs(checkout)) == 2


def test_a_python_that_is_too_old_or_missing_is_named(tmp_path):
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source {REPOSITORY}/scripts/setup.sh"],
        cwd=tmp_path,
        env={"PYTHON": "/nowhere/python2", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 1
    assert "wanted Python 3.10 or newer; none of /nowhere/python2 is." in run.stderr
