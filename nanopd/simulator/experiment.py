"""One arm of an experiment: a policy on a topology under a workload."""

from collections.abc import Sequence
from itertools import takewhile

from nanopd.config import ClusterConfig, SchedulerConfig, Topology
from nanopd.cost_model import HardwareProfile, StepFeatures
from nanopd.request import Strategy
from nanopd.router import POLICIES, build
from nanopd.router.router import Router
from nanopd.simulator.device import DeviceSharing
from nanopd.simulator.oracle import oracle_router
from nanopd.simulator.result import SimulationResult
from nanopd.simulator.simulation import Simulation, SimulationConfig
from nanopd.workload import RequestSpec
from nanopd.workload.spec import PREFIX_BLOCK

ARMS = ("collocated", "disaggregated", "oracle", *POLICIES)


def simulate(
    profile: HardwareProfile,
    workers: str,
    policy: str,
    specs: Sequence[RequestSpec],
    *,
    max_num_seqs: int = 256,
    overlap_host: bool = True,
    router: Router | None = None,
    sharing: DeviceSharing | None = None,
    wire_ms: float = 0.0,
    rejects_hopeless: bool = False,
) -> SimulationResult:
    """``workers`` as ``1C+1P+1D``; ``policy`` one of ``ARMS``: a router, the oracle, or a pure strategy by least load.

    ``router`` replaces the policy's. ``sharing``: all workers are on one device. ``wire_ms``: of each message.
    ``rejects_hopeless``: adaptive refuses requests whose objectives no plan is likely to keep.

    Raises ConfigError.
    """
    strategies = {"collocated": Strategy.COLLOCATED, "disaggregated": Strategy.DISAGGREGATED}
    strategy = strategies.get(policy, Strategy.ADAPTIVE)
    final_lens: dict[str, int] = {}
    if router is None and policy == "oracle":
        router = oracle_router(profile, final_lens)
    if router is None:
        name = "fixed" if policy in strategies else policy
        router = build(profile.kv_bytes_per_token, "cuda", name, profile, rejects_hopeless=rejects_hopeless)
    config = SimulationConfig(
        ClusterConfig(topology=Topology.parse(workers), strategy=strategy),
        SchedulerConfig(max_num_seqs=max_num_seqs),
        overlap_host,
        sharing=sharing,
        wire_s=wire_ms / 1e3,
    )
    return Simulation(profile, router, config, final_lens=final_lens).run(specs)


def capacity(profile: HardwareProfile, specs: Sequence[RequestSpec], num_workers: int, max_batch: int = 256) -> float:
    """Requests per second that ``num_workers`` could serve at most without mixing prompts and decodes in a step: their time over the least that a
    request takes of it. Its prompt goes at the pace of full steps (starts that an earlier request had are known), its answer in the largest batch
    (up to ``max_batch``) that keeps its TPOT goal."""
    total_ms, known = 0.0, set[int]()
    for spec in specs:
        num_known = sum(1 for _ in takewhile(known.__contains__, spec.prefix_hashes))
        known.update(spec.prefix_hashes)
        cached = min(num_known * PREFIX_BLOCK, spec.num_prompt_tokens - 1)
        total_ms += _least_prefill_ms(profile, spec.num_prompt_tokens - cached, cached)
        total_ms += _least_decode_ms(profile, spec, max_batch)
    return 1e3 * num_workers * len(specs) / total_ms


def _least_prefill_ms(profile: HardwareProfile, num_tokens: int, num_cached: int) -> float:
    config = SchedulerConfig()
    chunk = min(num_tokens, config.prefill_chunk_size or config.max_num_batched_tokens)
    num_prompts = max(1, config.max_num_batched_tokens // chunk)
    features = StepFeatures.of_prefill(chunk, num_cached + (num_tokens - chunk) // 2, num_prompts)
    return profile.step.predict_ms(features) * num_tokens / features.num_prefill_tokens


def _least_decode_ms(profile: HardwareProfile, spec: RequestSpec, max_batch: int) -> float:
    goal = spec.slo.tpot_ms or float("inf")
    context = spec.num_prompt_tokens + spec.num_output_tokens / 2
    step = [profile.step.predict_ms(StepFeatures.of_decode(batch, context)) for batch in range(1, max_batch + 1)]
    return spec.num_output_tokens * min(ms / batch for batch, ms in enumerate(step, 1) if ms <= goal or batch == 1)
