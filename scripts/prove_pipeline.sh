#!/usr/bin/env bash
# Proves that `vqtok tokenize` makes every row once, whatever dies: the tests of the pipeline in their
# full form, then real data with two kills on the way. Knobs:
#   VQTOK_STORMS=20        storms of kill -9 on workers and drivers
#   VQTOK_PROVE_DATA=...   folders or files of images to tokenize with the bundled tokenizer, each
#                          killed twice and verified; default: the photos that ship with the package
#   VQTOK_PROVE_WORKERS=2  processes
#   VQTOK_PYTHON=...       a Python that has vqtok and its tests' libraries; default: .venv's
set -euo pipefail
cd "$(dirname "$0")/.."
python=${VQTOK_PYTHON:-.venv/bin/python}
export VQTOK_STORMS=${VQTOK_STORMS:-20} PYTHONPATH=${PYTHONPATH:-.}
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
workers=${VQTOK_PROVE_WORKERS:-2}
data=${VQTOK_PROVE_DATA:-vqtok/samples}
work=$(mktemp -d)
driver=
trap '[ -z "$driver" ] || kill -9 "$driver" 2>/dev/null || true; rm -rf "$work"' EXIT

vqtok() { "$python" -c "from vqtok.cli import app; app()" "$@"; }

# ends a run with kill -9 once it has published so many units; a run that is over is left alone
kill_at() { # driver, folder, units
    while kill -0 "$1" 2>/dev/null; do
        published=$( (find "$2/data" -name '*.parquet' 2>/dev/null || true) | wc -l)
        if [ "$published" -ge "$3" ]; then kill -9 "$1" 2>/dev/null || true; break; fi
        sleep 0.1
    done
    wait "$1" 2>/dev/null || true
}

echo "== failpoints, storms, zombies, two drivers, shares, full disk, poison, node kill"
"$python" -m pytest -q tests/data/test_resume.py tests/data/test_workers.py tests/data/test_ray.py \
    tests/data/test_inspection.py tests/cli/test_poison.py

for source in $data; do
    echo "== $source, killed twice"
    out=$work/codes
    rm -rf "$out" "$work/clean"
    rows=$(vqtok plan "$source" --json | "$python" -c 'import json,sys; print(json.load(sys.stdin)["rows"])')
    unit=$(((rows + 11) / 12)) # about twelve units
    run=(tokenize "$source" --tokenizer vqtok/vim-vq-tiny --unit-rows "$unit" --workers "$workers")
    for units in 3 7; do
        # the shell's own child is the driver, so that the signal meets it
        "$python" -c "from vqtok.cli import app; app()" "${run[@]}" --out "$out" --resume \
            >"$work/log" 2>&1 &
        driver=$!
        kill_at "$driver" "$out" "$units"
        driver=
        vqtok status "$out"
    done
    vqtok "${run[@]}" --out "$out" --resume 2>>"$work/log" || { tail -5 "$work/log"; exit 1; }
    vqtok verify "$out"
    vqtok tokenize "$source" --tokenizer vqtok/vim-vq-tiny --out "$work/clean" 2>>"$work/log"
    digest() { vqtok verify "$1" --json | "$python" -c 'import json,sys; print(json.load(sys.stdin)["rows_digest"])'; }
    [ "$(digest "$out")" = "$(digest "$work/clean")" ] || { echo "rows differ from a clean run"; exit 1; }
    echo "rows equal those of one process that nothing disturbed"
done
echo "proved"
