"""One arm of an experiment: a policy on a topology under a workload."""

from collections.abc import Sequence

from nanopd.config import ClusterConfig, SchedulerConfig, Topology
from nanopd.cost_model import HardwareProfile, StepFeatures
from nanopd.request import Strategy
from nanopd.router import POLICIES, build
from nanopd.router.router import Router
from nanopd.simulator.oracle import oracle_router
from nanopd.simulator.result import SimulationResult
from nanopd.simulator.simulation import Simulation, SimulationConfig
from nanopd.workload import RequestSpec

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
) -> SimulationResult:
    """``workers`` as ``1C+1P+1D``; ``policy`` one of ``ARMS``: a router, the oracle, or a pure strategy by least load.

    ``router`` replaces the policy's.

    Raises ConfigError.
    """
    strategies = {"collocated": Strategy.COLLOCATED, "disaggregated": Strategy.DISAGGREGATED}
    strategy = strategies.get(policy, Strategy.ADAPTIVE)
    final_lens: dict[str, int] = {}
    if router is None and policy == "oracle":
        router = oracle_router(profile, final_lens)
    if router is None:
        name = "fixed" if policy in strategies else policy
        router = build(profile.kv_bytes_per_token, "cuda", name, profile)
    config = SimulationConfig(
        ClusterConfig(topology=Topology.parse(workers), strategy=strategy),
        SchedulerConfig(max_num_seqs=max_num_seqs),
        overlap_host,
    )
    return Simulation(profile, router, config, final_lens=final_lens).run(specs)


def capacity(profile: HardwareProfile, specs: Sequence[RequestSpec], num_workers: int, batch: int = 64) -> float:
    """Requests per second that ``num_workers`` could just serve: their time over the time that a request takes of one worker, prefilled alone in
    chunks and decoded in a batch of ``batch``. A yardstick for rates, not a bound."""
    step, total_ms = profile.step, 0.0
    for spec in specs:
        chunks, rest = divmod(spec.num_prompt_tokens, 512)
        sizes = [512] * chunks + ([rest] if rest else [])
        position = 0
        for size in sizes:
            total_ms += step.predict_ms(StepFeatures.of_prefill(size, position))
            position += size
        context = spec.num_prompt_tokens + spec.num_output_tokens / 2
        total_ms += spec.num_output_tokens * step.predict_ms(StepFeatures.of_decode(batch, context)) / batch
    return 1e3 * num_workers * len(specs) / total_ms
