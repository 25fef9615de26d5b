"""What a message between processes takes: how much longer lone requests wait for their first token than in a simulation without."""

from collections.abc import Sequence
from statistics import median

from benchmarks.fidelity.rows import Row
from benchmarks.fidelity.simulated import simulated_rows
from benchmarks.gpu_profile.setting import MAX_NUM_SEQS, strategy_of
from nanopd.cost_model import HardwareProfile
from nanopd.workload import RequestSpec


def wire_ms(profile: HardwareProfile, workers: str, specs: Sequence[RequestSpec], real: Sequence[Row]) -> float:
    """Milliseconds of each message. ``specs`` and ``real``: of lone requests. All that a first token waits for and no model knows is in it."""

    def ttft_ms(each_ms: float) -> float:
        rows = simulated_rows(profile, workers, strategy_of(workers), specs, max_num_seqs=MAX_NUM_SEQS, wire_ms=each_ms)
        return median(row.ttft_ms for row in rows)

    without = ttft_ms(0.0)
    num_messages = ttft_ms(1.0) - without
    return max(0.0, (median(row.ttft_ms for row in real) - without) / num_messages)
