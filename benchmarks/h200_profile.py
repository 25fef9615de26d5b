"""The bundled profile h200_qwen3_8b, fitted to what has been measured on an H200 so far.

    python benchmarks/h200_profile.py      (writes nanopd/cost_model/profiles/h200_qwen3_8b.json)

Measured: whole engine steps (engine-steps record). Derived from measured kernels where no whole step has been measured: decodes at other
contexts from the decode-attention record, chunks below 512 tokens from the linear record. Not measured: mixed steps (the shared token table
says what they cost), and the transfer between two nanopd workers (the copy engine over NVLink stands for it). `nanopd profile` on the hardware
replaces all of it.
"""

import json
from datetime import date
from pathlib import Path

from nanopd.cost_model import HardwareProfile, StepFeatures, StepSample, TransferModel, fit_step_model, median_error

RESULTS = Path(__file__).parent / "results"
OUT = Path(__file__).parents[1] / "nanopd" / "cost_model" / "profiles" / "h200_qwen3_8b.json"
NUM_LAYERS, KV_BYTES_PER_TOKEN, BLOCK_SIZE = 36, 147_456, 16
DECODE_CONTEXT = 1155  # the middle of the contexts a measured decode step had
MAX_STEP_TOKENS = 16_384
LADDER = (1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, 513, 32))  # of model_runner.graphs
# All linears of a chunk through cuBLAS with norms (linear record; 256: cuBLAS alone, from the same method, plus its norms).
LINEAR_MS = {16: 4.40, 64: 4.57, 128: 5.03, 256: 6.5}
REST_MS = (
    0.15  # of a step beside linears, norms and attention: embedding, sampling (a measured decode step less its parts)
)
# P2P over NVLink, copy engine, contiguous: 16 MiB at 279 GB/s, 1 GiB at 395 GB/s; latency and asymptote from these two.
TRANSFER = TransferModel(latency_ms=0.018, bandwidth_gb_s=397.0)
MEMORY_BYTES = int(0.9 * 139 * 2**30) - 16_400_000_000 - 3_000_000_000  # less the weights and a step's activations
HOST_OVERHEAD_MS = 0.09  # token to token less device time, median over batches: the host's work is hidden otherwise


def measured() -> list[StepSample]:
    """Whole steps."""
    samples = []
    for run in json.loads((RESULTS / "engine-steps_1xh200_2026-11-24.json").read_text())["runs"]:
        samples += [StepSample(StepFeatures.of_decode(batch, DECODE_CONTEXT), ms) for batch, ms in run["decode"]]
        for length, prompts, seconds in run["prefill"]:
            num_steps = max(1, length * prompts // MAX_STEP_TOKENS)
            features = StepFeatures.of_prefill(length, 0, prompts // num_steps)
            samples.append(StepSample(features, seconds * 1e3 / num_steps))
    return samples


def derived(whole: list[StepSample]) -> list[StepSample]:
    """Steps put together from measured kernels."""
    attention = {
        (r["B"], r["context"]): r["ours_pdl_us"]
        for r in json.loads((RESULTS / "decode-attention_1xh200_2026-11-24.json").read_text())
    }
    samples = [StepSample(StepFeatures.of_prefill(length), ms + REST_MS) for length, ms in LINEAR_MS.items()]
    for (batch, context), us in attention.items():
        steps = sorted(s.ms for s in whole if s.features.num_decodes == batch)
        if context > 1024 and steps:
            per_token_ms = NUM_LAYERS * (us - attention.get((batch, 1024), us)) / 1e3 / (context - 1024)
            ms = steps[len(steps) // 2] + per_token_ms * (context - DECODE_CONTEXT)
            if per_token_ms > 0.0:
                samples.append(StepSample(StepFeatures.of_decode(batch, context), ms))
    return samples


def main() -> None:
    whole = measured()
    samples = whole + derived(whole)
    step = fit_step_model(samples, LADDER, num_folds=1)
    profile = HardwareProfile(
        hardware="NVIDIA H200",
        model="qwen3-8b",
        dtype="bfloat16",
        source=(
            "fitted by benchmarks/h200_profile.py to whole engine steps (benchmarks/results/engine-steps_1xh200_2026-11-24.json); other contexts "
            "from decode-attention_1xh200_2026-11-24.json, chunks below 512 tokens from linear_1xh200_2026-11-24.json; mixed steps and the "
            "transfer between workers not measured (NVLink copy engine: 279 GB/s at 16 MiB, 395 at 1 GiB)"
        ),
        date=date(2026, 11, 24).isoformat(),
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
        block_size=BLOCK_SIZE,
        num_blocks=MEMORY_BYTES // (KV_BYTES_PER_TOKEN * BLOCK_SIZE),
        max_model_len=40_960,
        step=step,
        transfer=TRANSFER,
        host_overhead_ms=HOST_OVERHEAD_MS,
        samples=tuple(samples),
    )
    profile.save(OUT)
    print(
        f"{len(whole)} whole steps, {len(samples) - len(whole)} derived; median error {median_error(step, whole):.1%} on the whole ones"
    )
    for sample in samples:
        f = sample.features
        what = f"{f.kind:8} T={f.num_prefill_tokens:6} P={f.num_prefills:3} B={f.num_decodes:4} C={f.decode_context:8}"
        print(f"{what} {sample.ms:8.2f} {step.predict_ms(f):8.2f}")


if __name__ == "__main__":
    main()
