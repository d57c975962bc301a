#!/usr/bin/env bash
# What one GPU makes of training: at most ten minutes of one H200.
#
#   OUT=runs/gpu benchmarks/gpu.sh            on a machine with a GPU
#   PARTS=modern OUT=runs/gpu_modern benchmarks/gpu.sh   steps of configs/models/modern_{2b,4b,8b}.yaml instead
#   OUT=runs/tiny benchmarks/gpu.sh --tiny     small networks on any device, to test this script
#
# Each part runs in a process of its own with a time limit. A part that fails or runs out of time leaves its log and its
# exit code in parts.jsonl, and the others still run. The limits sum to less than ten minutes; the most important parts
# come first. PYTHON names the interpreter.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-python}
PARTS=${PARTS:-chatbridge}
tiny=${1:-}
case $PARTS in chatbridge | modern) ;; *) echo "PARTS=$PARTS: accepted are chatbridge and modern" >&2; exit 2 ;; esac
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
mkdir -p "$OUT"
rm -f "$OUT"/*.json "$OUT"/parts.jsonl

part() {  # NAME LIMIT_S COMMAND...
    local name=$1 limit=$2 start=$SECONDS code=0
    shift 2
    timeout --kill-after=5 "$limit" "$@" > "$OUT/$name.log" 2>&1 || code=$?
    printf '{"part": "%s", "exit": %d, "seconds": %d, "limit": %d}\n' "$name" "$code" $((SECONDS - start)) "$limit" \
        | tee -a "$OUT/parts.jsonl"
}

part environment 20 "$PYTHON" -m benchmarks.gpu environment --out "$OUT" $tiny
if [ "$PARTS" = modern ]; then
    part step_modern_2b 110 "$PYTHON" -m benchmarks.gpu step --size modern_2b --out "$OUT" $tiny
    part step_modern_4b 140 "$PYTHON" -m benchmarks.gpu step --size modern_4b --out "$OUT" $tiny
    part step_modern_8b 160 "$PYTHON" -m benchmarks.gpu step --size modern_8b --out "$OUT" $tiny
else
    part step_7b 110 "$PYTHON" -m benchmarks.gpu step --size 7b --out "$OUT" $tiny
    part step_13b 140 "$PYTHON" -m benchmarks.gpu step --size 13b --out "$OUT" $tiny
    part attention 60 "$PYTHON" -m benchmarks.gpu attention --out "$OUT" $tiny
    if [ "$tiny" != --tiny ]; then
        part tests 120 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider --junitxml "$OUT/tests.xml"
        part compile_7b 110 "$PYTHON" -m benchmarks.gpu compile --size 7b --out "$OUT"
    fi
fi
"$PYTHON" -m benchmarks.gpu summary --out "$OUT" | tee "$OUT/summary.md"
