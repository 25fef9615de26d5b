"""The output-length predictor against the original's bucketed mean, request by request over traces.

    python benchmarks/predictor.py --traces FOLDER --out benchmarks/results/NAME      (writes NAME.json and NAME.md)

Each request is predicted before its length is shown. A point forecast's CRPS is its absolute error. FOLDER holds the public traces
(mooncake_conversation.jsonl, azure_llm_2023_conv.csv, azure_llm_2023_code.csv); without it the synthetic traces are scored alone.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from math import log
from pathlib import Path
from random import Random
from statistics import median

from nanopd.router.predictor import BucketedMean, LengthKey, LengthPredictor
from nanopd.router.predictor.scoring import Observation, score
from nanopd.workload import RequestSpec, named_workload, read_trace

COUNT = 4000
TOKENS_PER_HASH = 512  # a part of so many tokens at the end of a prompt has a hash too, which no later prompt shares
CUT = 256  # max_tokens of the censored trace


def observations(specs: Iterable[RequestSpec], sees_prompts: bool = True) -> list[Observation]:
    return [
        Observation(
            LengthKey(s.num_prompt_tokens, s.max_tokens, s.tenant),
            s.num_output_tokens,
            s.num_output_tokens >= s.max_tokens,
            s.arrival_s,
            s.prefix_hashes[: s.num_prompt_tokens // TOKENS_PER_HASH] if sees_prompts else (),
        )
        for s in specs
    ]


def drifting(count: int, seed: int) -> list[RequestSpec]:
    """Log-normal lengths whose median falls from 480 to 60 and comes back, twice."""
    rng, specs = Random(seed), []
    for i in range(count):
        median = 60.0 * 8.0 ** abs((i / count * 4.0) % 2.0 - 1.0)
        length = max(1, min(1024, round(rng.lognormvariate(log(median), 0.6))))
        specs.append(RequestSpec(i * 0.2, rng.randint(64, 2048), length, 1024))
    return specs


def cut(specs: list[RequestSpec], max_tokens: int) -> list[RequestSpec]:
    """The same requests, but half of the clients allow only ``max_tokens``."""
    return [
        replace(s, max_tokens=max_tokens, num_output_tokens=min(s.num_output_tokens, max_tokens)) if i % 2 else s
        for i, s in enumerate(specs)
    ]


def traces(folder: Path | None) -> dict[str, list[Observation]]:
    stationary = named_workload("sharegpt", "poisson", 5.0, count=COUNT, seed=1)
    specs = {
        "stationary": stationary,
        "half cut at 256": cut(stationary, CUT),
        "drifting": drifting(COUNT, 2),
        "mixed tenants": named_workload("mixed-slo", "poisson", 5.0, count=COUNT, seed=3),
    }
    every = {name: observations(trace) for name, trace in specs.items()}
    if folder is not None:
        mooncake = read_trace(folder / "mooncake_conversation.jsonl")
        every |= {
            "Mooncake conversation": observations(mooncake),
            "Mooncake, prompts unseen": observations(mooncake, sees_prompts=False),
            "Azure conversation": observations(read_trace(folder / "azure_llm_2023_conv.csv", 8000)),
            "Azure code": observations(read_trace(folder / "azure_llm_2023_code.csv", 8000)),
        }
    return every


def measure(trace: list[Observation]) -> dict:
    ours, mean, sliding = (
        score(LengthPredictor(), trace),
        score(BucketedMean(), trace),
        score(BucketedMean(window=100), trace),
    )
    deciles = [0] * 10
    for p in ours.pits:
        deciles[min(9, int(p * 10))] += 1
    return {
        "requests": len(trace),
        "ours": {"mae": round(ours.mae, 2), "crps": round(ours.crps, 2), "coverage_90": round(ours.coverage or 0.0, 4)},
        "bucketed_mean": {"mae": round(mean.mae, 2), "crps": round(mean.crps, 2)},
        "sliding_mean": {"mae": round(sliding.mae, 2), "crps": round(sliding.crps, 2)},
        "pit_deciles": [round(count / len(ours.pits), 4) for count in deciles],
    }


def query_us(trace: list[Observation]) -> dict[str, float]:
    """Microseconds of a query and of an observation, interleaved as in serving: medians, which other load on the machine moves least."""
    predictor = LengthPredictor()
    queries, observed = [], []
    for key, length, censored, now, _chain in trace:
        begun = time.perf_counter()
        predictor.distribution(key).conditional(20).mean  # noqa: B018
        asked = time.perf_counter()
        predictor.observe(key, length, censored, now)
        observed.append(time.perf_counter() - asked)
        queries.append(asked - begun)
    return {"query_us": round(median(queries) * 1e6, 1), "observe_us": round(median(observed) * 1e6, 1)}


def markdown(record: dict) -> str:
    lines = [
        f"# Output lengths: the predictor against means, {record['date']}",
        "",
        f"Commit {record['commit']}, `{record['command']}`. Tokens; the first 300 requests of a trace are not scored. A query (distribution, "
        f"conditioned on age, mean) takes {record['speed']['query_us']} us, an observation {record['speed']['observe_us']} us (medians).",
        "",
        "| trace | requests | MAE ours | bucketed mean | sliding mean | CRPS ours | bucketed mean | 90 % interval covers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in record["traces"].items():
        ours, mean, sliding = row["ours"], row["bucketed_mean"], row["sliding_mean"]
        lines.append(
            f"| {name} | {row['requests']} | {ours['mae']} | {mean['mae']} | {sliding['mae']} | {ours['crps']} | {mean['crps']} "
            f"| {ours['coverage_90']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of the public traces")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    scored = traces(args.traces)
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "command": "python benchmarks/predictor.py" + (" --traces FOLDER" if args.traces else ""),
        "python": sys.version.split()[0],
        "speed": query_us(scored["mixed tenants"]),
        "traces": {name: measure(trace) for name, trace in scored.items()},
    }
    print(markdown(record))
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(markdown(record))


if __name__ == "__main__":
    main()
