#!/usr/bin/env bash
# Everything that needs two GPUs, one after another: rates and overlap over the link between them, isolation, the three workloads by three strategies,
# Poisson arrivals at 3 requests per second, a thousand requests with aborts and faults.
#
#     benchmarks/two_gpus.sh [DIRECTORY]      (default: benchmarks/results; PYTHON chooses the interpreter)
#
# NVLink multicast is not used by any of it.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-benchmarks/results}
PYTHON=${PYTHON:-python3}
DAY=$(date -u +%Y-%m-%d)
export PYTHONPATH=.:tests:${PYTHONPATH:-}
SERVE="--model benchmarks/models/qwen3-8b --load-format dummy --device cuda --max-model-len 8192"
mkdir -p "$OUT"

$PYTHON -m pytest tests/gpu/test_kv_transfer.py tests/e2e/test_two_stages.py -q
$PYTHON benchmarks/transfer.py --devices 0,1 --out "$OUT/transfer_2gpus_$DAY"
$PYTHON benchmarks/isolation.py --out "$OUT/isolation_2gpus_$DAY"
$PYTHON -m nanopd bench static --num-workers 2 --num-requests 64 --concurrency 8 --serve="$SERVE" --out "$OUT/static_2gpus_$DAY"
$PYTHON -m nanopd bench poisson --num-workers 2 --rates 3 --serve="$SERVE" --out "$OUT/poisson_2gpus_$DAY"
