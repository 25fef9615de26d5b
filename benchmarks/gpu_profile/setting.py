"""What is run: the model, the traces, how much of everything."""

from dataclasses import dataclass
from pathlib import Path

from nanopd.config import CacheConfig, EngineConfig, SchedulerConfig
from nanopd.workload import RequestSpec

Drawn = tuple[str, float, int, int, int, int, int]  # see make_trace

LONE = "lone requests"  # a trace whose requests have the machine to themselves, for what a message takes
MAX_NUM_SEQS = 256
FIT_TRACE = {"1C": "mixed-slo", "shared": "sharegpt"}  # whose steps tell the burst and the sharing, see ``take``
STRATEGIES = {"C": "collocated", "P": "disaggregated"}  # by the first letter of the workers after their number


@dataclass(frozen=True, slots=True)
class Setting:
    """One model on one kind of device."""

    engine: EngineConfig
    traces: dict[str, Drawn]
    warm_up: Drawn
    num_lone: int
    lone_gap_s: float
    quick: bool = False


GPU = Setting(
    engine=EngineConfig(
        model=str(Path(__file__).parents[1] / "models" / "qwen3-8b"),
        load_format="dummy",
        device="cuda",
        dtype="bfloat16",
        max_model_len=40_960,
        scheduler=SchedulerConfig(max_num_seqs=MAX_NUM_SEQS),
    ),
    traces={
        "sharegpt": ("sharegpt", 12.0, 96, 21, 4096, 4, 256),
        "mixed-slo": ("mixed-slo", 4.0, 40, 22, 16_384, 4, 256),
    },
    warm_up=("sharegpt", 50.0, 24, 1, 2048, 4, 16),
    num_lone=24,
    lone_gap_s=0.1,
)
TRY = Setting(
    engine=EngineConfig(
        model="smollm2-135m-instruct",
        device="cpu",
        num_threads=1,
        max_model_len=1024,
        cache=CacheConfig(num_blocks=384),
        scheduler=SchedulerConfig(max_num_seqs=MAX_NUM_SEQS),
    ),
    traces={"sharegpt": ("sharegpt", 0.5, 3, 21, 96, 4, 6), "mixed-slo": ("mixed-slo", 0.5, 3, 22, 128, 4, 6)},
    warm_up=("sharegpt", 5.0, 2, 1, 32, 2, 2),
    num_lone=2,
    lone_gap_s=1.0,
    quick=True,
)


def lone_requests(setting: Setting) -> list[RequestSpec]:
    """Short prompts so far apart that none meets another."""
    return [RequestSpec(i * setting.lone_gap_s, 64, 4, 4) for i in range(setting.num_lone)]


def strategy_of(workers: str) -> str:
    """``workers``: as 2C or 1P+1D."""
    return STRATEGIES[workers.lstrip("0123456789")[0]]
