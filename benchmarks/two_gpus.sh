#!/usr/bin/env bash
# Everything that needs two GPUs, one part after another; a part that fails does not keep the next from running.
#
#     benchmarks/two_gpus.sh [DIRECTORY]            (default: benchmarks/results; PYTHON chooses the interpreter)
#     TRY=cpu benchmarks/two_gpus.sh DIRECTORY      every part made small, the embedded model on a CPU: that each of them runs
#     TRY=gpu benchmarks/two_gpus.sh DIRECTORY      the same on one GPU, with Qwen3-8B's shapes
#
# 1 tests     blocks bit for bit between the GPUs, 1P+1D beside collocated, 1,000 requests with aborts and transport faults
# 2 transfer  rates by transport and size, overlap with a trace, TTFT; every way to copy (on two GPUs only)
# 3 isolation a decode batch beside long prefills on the other GPU, and beside the same prefills on its own
# 4 static    short, long and mixed prompts; collocated, disaggregated and adaptive on two GPUs each
# 5 poisson   mixed prompts at 3 requests per second, the same three
# 6 figures   of 4 and 5
#
# On two H100s: the 1,000 requests of 1 take 36 s, transfer 60 s, the sweep 11 s, isolation 60 s, static 145 s, poisson 155 s.
# NVLink multicast is not used by any of it.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-benchmarks/results}
PYTHON=${PYTHON:-python3}
DAY=$(date -u +%Y-%m-%d)
export PYTHONPATH=.:tests:${PYTHONPATH:-}
QWEN=(--model benchmarks/models/qwen3-8b --load-format dummy --device cuda)
NAME=2gpus

case ${TRY:-} in
"")
    TESTS=()
    TRANSFER=(--devices cuda:0,cuda:1 --prompts 1024,4096,16384 --pushes 16,1024,8192 --chunks 512 --rounds 9)
    ISOLATION=(--seconds 5)
    SERVE="${QWEN[*]} --max-model-len 8192"
    STATIC=(--num-requests 64 --concurrency 8)
    POISSON=(--rates 3)
    ;;
cpu)
    NAME=try
    TESTS=(-k "not thousand")
    TRANSFER=(--devices cpu,cpu --model smollm2-135m-instruct --prompts 128 --pushes 16,512 --chunks 64 --rounds 3)
    ISOLATION=(--model smollm2-135m-instruct --load-format auto --device cpu --vocab-size 40000
        --batch 2 --context 16 --max-tokens 500 --seconds 2 --prompt 64 --num-blocks 512)
    SERVE="--device cpu --num-blocks 512 --num-threads 1"
    STATIC=(--num-requests 2 --concurrency 2 --prompt-scale 0.05 --output-tokens 4 --num-warm-up 1)
    POISSON=(--rates 1 --warmup-s 1 --window-s 4 --drain-s 20 --prompt-scale 0.05 --output-tokens 4 --num-warm-up 1)
    ;;
gpu)
    NAME=try
    TESTS=(-k "not thousand")
    TRANSFER=(--devices cuda:0,cuda:0 --prompts 1024 --pushes 16,1024 --chunks 512 --rounds 3)
    ISOLATION=(--batch 8 --context 256 --max-tokens 1000 --seconds 2 --prompt 2048 --num-blocks 2048)
    SERVE="${QWEN[*]} --max-model-len 8192"
    STATIC=(--num-requests 4 --concurrency 4 --output-tokens 8 --num-warm-up 1)
    POISSON=(--rates 3 --warmup-s 1 --window-s 4 --drain-s 5 --output-tokens 8 --num-warm-up 1)
    ;;
*)
    echo "TRY must be cpu or gpu, got $TRY" >&2
    exit 2
    ;;
esac

FAILED=()
part() {
    echo "== $1, $(date -u +%T)"
    "${@:2}" || FAILED+=("$1")
}

mkdir -p "$OUT"
part tests "$PYTHON" -m pytest tests/gpu/test_kv_transfer.py tests/e2e/test_two_stages.py -q ${TESTS[@]+"${TESTS[@]}"}
part transfer "$PYTHON" -m benchmarks.transfer "${TRANSFER[@]}" --out "$OUT/transfer_${NAME}_$DAY"
[[ -n ${TRY:-} ]] || part sweep "$PYTHON" -m benchmarks.transfer.sweep --out "$OUT/transfer-sweep_${NAME}_$DAY"
part isolation "$PYTHON" benchmarks/isolation.py ${ISOLATION[@]+"${ISOLATION[@]}"} --out "$OUT/isolation_${NAME}_$DAY"
part static "$PYTHON" -m nanopd bench static --num-workers 2 "${STATIC[@]}" --serve="$SERVE" --out "$OUT/static_${NAME}_$DAY"
part poisson "$PYTHON" -m nanopd bench poisson --num-workers 2 "${POISSON[@]}" --serve="$SERVE" --out "$OUT/poisson_${NAME}_$DAY"
part figures "$PYTHON" -m nanopd bench plot "$OUT/static_${NAME}_$DAY.json" "$OUT/poisson_${NAME}_$DAY.json" --out "$OUT/figures_${NAME}_$DAY"

if ((${#FAILED[@]})); then
    echo "failed: ${FAILED[*]}" >&2
    exit 1
fi
