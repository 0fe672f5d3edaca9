#!/usr/bin/env bash
# Proves that `vqtok tokenize` makes every row once, whatever dies; scripts/prove_pipeline.py says how,
# and which test proves what. Arguments go to it: --shared ../shared/data takes CIFAR-10 and a folder
# of photos through, each killed twice; --storms 3 --limit 600 is a short form; --json FILE keeps the
# table. Knobs: VQTOK_STORMS, VQTOK_PROVE_{SHARED,DATA,WORKERS,JSON}, and VQTOK_PYTHON, a Python that
# has vqtok and its tests' libraries; default: .venv's.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
exec "${VQTOK_PYTHON:-.venv/bin/python}" scripts/prove_pipeline.py "$@"
