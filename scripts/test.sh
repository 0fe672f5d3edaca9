#!/usr/bin/env bash
# The tests: makes .venv if needed, installs the test group, checks the style, runs pytest.
# Arguments go to pytest: bash scripts/test.sh tests/ops -k nearest. Knobs: see scripts/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
install tests "the test group" --group test
if [ -f scripts/fetch_common_tests.py ]; then
    "$python" scripts/fetch_common_tests.py # transformers' own model tests, kept in .cache/
fi

"$python" -m ruff check .
"$python" -m ruff format --check .

# everything from here on works without a network
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
"$python" -m pytest "$@"
