"""Benchmark records of invented measurements: what figures, tables and comparisons are tested with."""

from random import Random

from nanopd.bench.arm import Arm
from nanopd.bench.cell import Cell
from nanopd.bench.environment import Environment
from nanopd.bench.record import Record
from nanopd.bench.sample import Outcome, Phases, Sample

ENVIRONMENT = Environment(
    "2026-01-02T03:04:05+00:00",
    "nanopd bench poisson",
    "abc123",
    "A CPU",
    2,
    8.0,
    (),
    0.1,
    "Linux, Python 3.11",
    {"torch": "2.13.0"},
)
ARMS = (
    Arm("collocated", 2, ("--workers", "2C")),
    Arm("disaggregated", 2, ("--workers", "1P+1D")),
    Arm("adaptive", 2, ("--workers", "1P+1D")),
)


def make_sample(
    index: int = 0,
    scheduled_s: float = 0.0,
    token_ms: tuple[float, ...] = (100.0, 120.0, 150.0),
    outcome: Outcome = Outcome.COMPLETED,
    num_prompt_tokens: int = 64,
    path: str | None = None,
    phases: Phases | None = None,
) -> Sample:
    e2e = token_ms[-1] if token_ms and outcome is Outcome.COMPLETED else None
    return Sample(
        index,
        scheduled_s,
        scheduled_s,
        num_prompt_tokens,
        outcome,
        len(token_ms),
        token_ms,
        e2e,
        path=path,
        phases=phases,
    )


def make_cell(
    arm: str = "collocated",
    rate: float | None = 1.0,
    *,
    slowness: float = 1.0,
    num_requests: int = 60,
    num_dropped: int = 0,
    seed: int = 0,
    workload: str = "mixed",
    repeat: int = 0,
    window_s: float = 60.0,
) -> Cell:
    """Log-normal latencies around 80 ms x ``slowness``, the last ``num_dropped`` requests unfinished."""
    rng = Random(f"{arm}/{rate}/{seed}/{repeat}")
    prompts, samples = Random(f"{rate}/{workload}"), []  # the same for every arm, as in a run
    for index in range(num_requests):
        prompt = prompts.choice((prompts.randint(64, 256), prompts.randint(1024, 2048)))
        first = slowness * (rng.lognormvariate(4.4, 0.3) + 0.2 * prompt)
        times = [first]
        for _ in range(15):
            times.append(times[-1] + slowness * rng.lognormvariate(3.0, 0.25))
        dropped = index >= num_requests - num_dropped
        path = "disaggregated" if arm == "disaggregated" or (arm == "adaptive" and prompt > 500) else "collocated"
        moved = 4.0 if path == "disaggregated" else 0.0
        phases = Phases(first, 0.2 * first, 0.8 * first, 2 * moved, moved, times[-1] - first)
        samples.append(
            make_sample(
                index,
                index * window_s / num_requests,
                () if dropped else tuple(round(time, 2) for time in times),
                Outcome.UNFINISHED if dropped else Outcome.COMPLETED,
                prompt,
                None if dropped else path,
                None if dropped else phases,
            )
        )
    concurrency = None if rate is not None else 8
    return Cell(arm, workload, 0.0, window_s, window_s + 2.0, 0.1, tuple(samples), rate, concurrency, repeat)


def make_record(
    *cells: Cell,
    kind: str = "poisson",
    slo: tuple[float | None, float | None] = (None, None),
    arms: tuple[Arm, ...] = ARMS,
) -> Record:
    return Record(kind, ENVIRONMENT, 0, {"window_s": 60.0}, *slo, arms, cells)


def rate_record() -> Record:
    """Three arms, four rates, the higher the slower; objectives set."""
    slowness = {"collocated": 1.0, "disaggregated": 0.8, "adaptive": 0.75}
    cells = [
        make_cell(
            arm,
            rate,
            slowness=factor * (1 + rate),
            num_requests=int(60 * rate),
            num_dropped=int(3 * rate) if rate > 2 else 0,
        )
        for rate in (0.5, 1.0, 2.0, 3.0)
        for arm, factor in slowness.items()
    ]
    return make_record(*cells, slo=(800.0, 60.0))


def static_record() -> Record:
    """Three arms, three workloads, closed loop."""
    cells = [make_cell(arm.name, None, workload=workload) for workload in ("short", "long", "mixed") for arm in ARMS]
    return make_record(*cells, kind="static", slo=(400.0, 25.0))
