# Sourced by quickstart.sh and test.sh: makes the virtual environment and installs the package.
#
#   VENV     the virtual environment, made if it is not there (default: .venv)
#   PYTHON   the Python to make it with (default: the first of python3, python3.13 ... python3.10
#            that is at least 3.10)

VENV=${VENV:-.venv}
python="$VENV/bin/python"

fail() {
    echo "vqtok: $*" >&2
    exit 1
}

is_new_enough() {
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

make_venv() {
    if [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    local candidates=(python3 python3.13 python3.12 python3.11 python3.10) candidate found=""
    if [ -n "${PYTHON:-}" ]; then
        candidates=("$PYTHON")
    fi
    for candidate in "${candidates[@]}"; do
        if is_new_enough "$candidate"; then
            found=$candidate
            break
        fi
    done
    [ -n "$found" ] ||
        fail "wanted Python 3.10 or newer; none of ${candidates[*]} is. Set PYTHON to one."
    echo "vqtok: making $VENV with $("$found" --version 2>&1)" >&2
    "$found" -m venv "$VENV" ||
        fail "$found cannot make a virtual environment; on Debian: apt-get install python3-venv"
}

# What an install depends on: its arguments, the checkout's place, what it asks for, which Python.
install_key() {
    "$python" - "$1" <<'PYTHON'
import hashlib, pathlib, sys
project = pathlib.Path("pyproject.toml")
parts = (sys.argv[1], str(project.resolve()), project.read_text(encoding="utf-8"), sys.version)
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PYTHON
}

# install NAME NOTE ARGUMENTS...: pip install ARGUMENTS, unless the same was done before.
install() {
    local name=$1 note=$2 stamp="$VENV/.vqtok-$1" key
    shift 2
    key=$(install_key "$*")
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then
        return
    fi
    echo "vqtok: installing $name into $VENV ($note)" >&2
    "$python" -m pip install --quiet --disable-pip-version-check "$@" ||
        fail "pip could not install: $*"
    echo "$key" >"$stamp"
}

make_venv
install pip "dependency groups need 25.1" --upgrade "pip>=25.1"
install vqtok "torch and its friends: about 5 GB and some minutes the first time" --editable .
