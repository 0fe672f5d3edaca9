#!/usr/bin/env bash
# From a fresh clone to codes and back: makes .venv, installs vqtok, tokenizes the sample photos
# with the bundled tokenizer, decodes them and shows what came back. A second run is quick.
# Results: quickstart/{codes,decoded,contact_sheet.png,report.json}. Knobs: see scripts/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh

# everything from here on works without a network
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$python" scripts/quickstart.py "$@"
