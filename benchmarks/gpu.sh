#!/usr/bin/env bash
# Everything that needs a GPU, in one bounded run: tests, benchmarks, short real training. Under nine minutes in all.
#
#   benchmarks/gpu.sh              all parts
#   benchmarks/gpu.sh tests views  some of them: tests | views | varcon | contrastive | evaluation | loader | step |
#                                  train | cifar10
#
# Logs and CSV rows go to $OUT (default: runs/gpu). $CIFAR10 names a folder with CIFAR-10 as train/CLASS/*.jpg and
# test/CLASS/*.jpg, $PHOTOS a folder with JPEG photographs as CLASS/*.jpg (128 or more); without them the parts that need
# them say so and are left out. A part that fails or runs out of time does not stop the others; the exit status is then 1.
# $PYTHON chooses the interpreter, $VARCON_SHAPES the shapes of the loss (ROWSxWIDTHxCLASSES ...), $CIFAR10_FLAGS adds
# flags to recipes/cifar10_fast.py.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$OUT"
work=runs/gpu-work  # relative: its name goes into the commands of the CSV rows
rm -rf "$work"; mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
failed=0
LIMIT=525  # seconds for all parts together

part() {  # part NAME: the function of that name, bounded, logged, and the rest goes on if it fails
    local name=$1 seconds=${BOUND[$1]} left=$((LIMIT - SECONDS))
    [ "$left" -ge 20 ] || { echo "== $name LEFT OUT: no time left, run it by itself"; failed=1; return; }
    [ "$seconds" -le "$left" ] || seconds=$left
    echo "== $name (at most $seconds s)"
    timeout --kill-after=5 "$seconds" bash -c "$name" 2>&1 | tee "$OUT/$name.log"
    local status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] || { echo "== $name FAILED (exit $status)"; failed=1; }
}

score() {  # score RUN: the three scores of a run, its report, its CSV row
    "$PYTHON" -m fastvarcon.cli eval linear "$1" && "$PYTHON" -m fastvarcon.cli eval knn "$1" &&
        "$PYTHON" -m fastvarcon.cli eval knn "$1" --features pixels && "$PYTHON" -m fastvarcon.cli report "$1" &&
        "$PYTHON" benchmarks/record_run.py "$1" --out "$OUT/runs.csv"
}

tests() {  # a file that lacks a package of its own fails alone
    "$PYTHON" -m pytest -m gpu -v -p no:cacheprovider --continue-on-collection-errors tests
}

views() {  # augmentation: ours, torchvision, kornia and DALI
    "$PYTHON" -m fastvarcon.cli bench kernels --views --device "$DEVICE" --rounds 3 \
        --csv "$OUT/kernels_views.csv" --plot "$OUT/kernels_views.png"
}

varcon() {  # the loss: ours and what torch offers, at the two headline shapes; VARCON_SHAPES chooses others
    "$PYTHON" -m fastvarcon.cli bench kernels --varcon --device "$DEVICE" --rounds 3 \
        --shapes ${VARCON_SHAPES:-8192x128x1000 65536x512x22000} \
        --csv "$OUT/kernels_varcon.csv" --plot "$OUT/kernels_varcon.png"
}

contrastive() {  # SupCon: ours, the naive form, torch.compile and pytorch-metric-learning
    "$PYTHON" -m fastvarcon.cli bench kernels --contrastive --device "$DEVICE" --rounds 3 \
        --shapes ${CONTRASTIVE_SHAPES:-16384x128x100} \
        --csv "$OUT/kernels_contrastive.csv" --plot "$OUT/kernels_contrastive.png"
}

evaluation() {  # the linear probe and kNN at the size of ImageNet-100's features
    "$PYTHON" benchmarks/evaluation.py --out "$OUT/evaluation.csv"
}

photos() {  # the photographs, converted once
    [ -f "$work/photos.beton" ] || "$PYTHON" -m fastvarcon.cli convert "$PHOTOS" "$work/photos.beton" --mode keep
}

loader() {  # pairs of views per second, decoded on the host and on the GPU
    [ -d "${PHOTOS:-}" ] || { echo "left out: set PHOTOS to a folder with CLASS/*.jpg"; return 0; }
    photos && "$PYTHON" -m fastvarcon.cli bench loader "$work/photos.beton" --images "$PHOTOS" --rounds 3 --seconds 2 \
        --batch 128 --csv "$OUT/loader.csv" --plot "$OUT/loader.png"
}

step() {  # views trained on per second: ResNet-50 at 224 px in bf16, next to the reference loop
    [ -d "${PHOTOS:-}" ] || { echo "left out: set PHOTOS to a folder with CLASS/*.jpg"; return 0; }
    photos && "$PYTHON" -m fastvarcon.cli bench step --recipe recipes/imagenet_r50.py --images "$PHOTOS" \
        --data.train "$work/photos.beton" --train.device "$DEVICE" --train.global-batch "${STEP_BATCH:-128}" \
        --rounds 2 --seconds 4 --csv "$OUT/step.csv" --plot "$OUT/step.png" &&
        "$PYTHON" -m fastvarcon.cli doctor --recipe recipes/imagenet_r50.py --seconds 8 \
            --data.train "$work/photos.beton" --train.device "$DEVICE" --train.global-batch "${STEP_BATCH:-128}"
}

train() {  # digits, in bf16, on one GPU
    "$PYTHON" -m fastvarcon.data_prep.digits "$work/digits" &&
        for split in train val; do
            "$PYTHON" -m fastvarcon.cli convert "$work/digits/$split" "$work/digits-$split.beton" --mode raw || return 1
        done &&
        "$PYTHON" recipes/digits.py --data.train "$work/digits-train.beton" --data.val "$work/digits-val.beton" \
            --out "$work/digits-gpu" --train.device "$DEVICE" && score "$work/digits-gpu"
}

cifar10() {  # the whole recipe that is made for a minute of an H200
    [ -d "${CIFAR10:-}/train" ] || { echo "left out: set CIFAR10 to a folder with train/CLASS and test/CLASS"; return 0; }
    "$PYTHON" -m fastvarcon.cli convert "$CIFAR10/train" "$work/cifar10-train.beton" --mode raw &&
        "$PYTHON" -m fastvarcon.cli convert "$CIFAR10/test" "$work/cifar10-val.beton" --mode raw &&
        "$PYTHON" recipes/cifar10_fast.py --data.train "$work/cifar10-train.beton" \
            --data.val "$work/cifar10-val.beton" --out "$work/cifar10-gpu" --train.device "$DEVICE" ${CIFAR10_FLAGS:-} &&
        score "$work/cifar10-gpu"
}

PARTS="tests views varcon contrastive evaluation loader step train cifar10"
declare -A BOUND=(  # seconds; LIMIT holds for all of them together
    [tests]=130 [views]=100 [varcon]=150 [contrastive]=60 [evaluation]=100 [loader]=90 [step]=90 [train]=90 [cifar10]=210
)
for name in ${*:-$PARTS}; do
    [ -n "${BOUND[$name]:-}" ] || { echo "unknown part $name: choose ${PARTS// /, }"; exit 2; }
done
export -f $PARTS photos score
export PYTHON OUT DEVICE work
"$PYTHON" - <<'EOF' | tee "$OUT/machine.txt"
import torch, triton
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
print(f"torch {torch.__version__}, triton {triton.__version__}, {name}")
EOF
if [ "$DEVICE" = cuda ] && grep -q "no CUDA device" "$OUT/machine.txt"; then
    echo "error: no CUDA device here; DEVICE=cpu tries the script itself without one"
    exit 2
fi
for name in ${*:-$PARTS}; do
    part "$name"
done
exit $failed
