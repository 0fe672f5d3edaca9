#!/usr/bin/env bash
# Spatial codebooks against a patch codebook: same recipe, steps, data and seed; only the quantizer
# differs. Prints PSNR, bits and usage on the evaluation photos.
#
#     bash benchmarks/spatial_vs_patch.sh TRAIN_PHOTOS EVALUATION_PHOTOS [STEPS] [OUT]
#
# patch          one codebook of 4,096 codes: 12 bits a patch
# spatial        16 regions of 4,096 codes each: 12 bits a patch, since the place says the region
set -euo pipefail
train=$1 evaluate=$2 steps=${3:-1000} out=${4:-runs/spatial_vs_patch}

run() {
    local name=$1
    shift
    vqtok train recipes/vim_vq_tiny.yaml model.preset=nano data.source="$train" \
        evaluation.source="$evaluate" training.steps="$steps" training.save_steps=1000 \
        output="$out/$name" "$@" 1>&2
    python - "$name" "$out/$name/evaluation.json" <<'PYTHON'
import json, sys
name, path = sys.argv[1:]
report = json.load(open(path))
keys = ("bits_per_pixel", "psnr", "ssim", "codebook0_usage", "codebook0_perplexity")
print(name.ljust(15), *(f"{key} {report[key]:.4f}" for key in keys), sep="  ")
PYTHON
}

run patch
run spatial model.overrides.quantizer_config.kind=spatial \
    model.overrides.quantizer_config.codebook_size=65536
