"""What the goodput experiment compares: workloads under objectives, and the arms that serve them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nanopd.cost_model import HardwareProfile
from nanopd.request import Slo
from nanopd.router import Router
from nanopd.router.adaptive import AdaptiveOptions, AdaptiveRouter
from nanopd.simulator import capacity
from nanopd.workload import RequestSpec, generate
from nanopd.workload.arrivals import arrival_times
from nanopd.workload.shapes import Lengths, LogNormalShape, MixtureShape, Shape, make_shape

BASELINES = ("least-work", "original", "dynamo", "arrow", "taichi", "kairos")
WITH_ROLES = ("dynamo", "kairos", "taichi")  # baselines that need prefill and decode workers: half and half
ABLATIONS = {
    "posterior mean": AdaptiveOptions(use_posterior=False),
    "no externality": AdaptiveOptions(use_externality=False),
    "no reservation": AdaptiveOptions(use_reservation=False),
    "no roles": AdaptiveOptions(use_roles=False),
    "no deadlines": AdaptiveOptions(use_deadlines=False),
    "no deferral": AdaptiveOptions(defers_late=False),
}
STATIC = {
    2: ("2C", "1P+1D"),
    8: ("8C", "2P+6D", "3P+5D", "4P+4D", "5P+3D", "6P+2D"),
    64: ("64C", "24P+40D", "32P+32D", "40P+24D"),
}


def mixed_objectives() -> Shape:
    """Chat that must begin at once, agents that must flow, and a batch that only must get done. All of the same priority."""
    chat = LogNormalShape(Lengths(250, 1.0, 8, 4096), Lengths(200, 0.9, 4, 2048), 1024, "chat", Slo(200.0, 30.0))
    agent = LogNormalShape(Lengths(1500, 0.6, 64, 8192), Lengths(120, 0.7, 4, 1024), 1024, "agent", Slo(2000.0, 8.0))
    batch = LogNormalShape(
        Lengths(5000, 0.6, 512, 16_384), Lengths(300, 0.5, 16, 1024), 1024, "batch", Slo(20_000.0, 100.0)
    )
    return MixtureShape((chat, agent, batch), (0.45, 0.4, 0.15))


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload under one set of objectives."""

    name: str
    shape: str
    slo: Slo | None  # None: the workload's own
    arrivals: str = "poisson"

    def trace(self, rate: float, duration_s: float, seed: int) -> list[RequestSpec]:
        shape = mixed_objectives() if self.shape == "mixed objectives" else make_shape(self.shape)
        arrivals = arrival_times(self.arrivals, rate, seed)
        return generate(shape, arrivals, duration_s=duration_s, slo=self.slo, seed=seed)

    def capacity(self, profile: HardwareProfile, num_workers: int) -> float:
        """Requests per second of 100 % load."""
        return capacity(profile, replace(self, arrivals="poisson").trace(1.0, 2000.0, 0), num_workers)


# TaiChi's three regimes, its goals scaled from 60 ms steps to the 5 ms of the H200 profile; then objectives that differ between requests, prompts
# that share their starts, bursts, and prompts of many thousand tokens.
CELLS = (
    Cell("sharegpt, tight TPOT", "sharegpt", Slo(2000.0, 7.5)),
    Cell("long, tight TTFT", "long", Slo(150.0, 40.0)),
    Cell("long, balanced", "long", Slo(400.0, 10.0)),
    Cell("mixed objectives", "mixed objectives", None),
    Cell("agentic, shared starts", "agentic", Slo(500.0, 8.0)),
    Cell("mixed objectives, bursty", "mixed objectives", None, "bursty"),
    Cell("long context", "long-context", Slo(4000.0, 15.0)),
)


def arms(num_workers: int, extra: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(policy, topology) of every arm, the same number of workers in each."""
    half, whole = num_workers // 2, f"{num_workers}C"
    chosen = [("collocated" if t == whole else "disaggregated", t) for t in STATIC[num_workers]]
    chosen += [(name, f"{half}P+{half}D" if name in WITH_ROLES else whole) for name in BASELINES]
    return chosen + [(name, whole) for name in ("adaptive", *extra)]


def router_of(policy: str, profile: HardwareProfile) -> Router | None:
    """Of an ablation; None: ``simulate`` knows the policy."""
    options = ABLATIONS.get(policy)
    return AdaptiveRouter(profile, options) if options is not None else None
