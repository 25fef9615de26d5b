"""The simulator's side: the same trace, on the profile."""

from collections.abc import Sequence

from benchmarks.fidelity.rows import Row
from nanopd.cost_model import HardwareProfile
from nanopd.simulator import simulate
from nanopd.simulator.device import DeviceSharing
from nanopd.workload import RequestSpec


def simulated_rows(
    profile: HardwareProfile,
    workers: str,
    strategy: str,
    specs: Sequence[RequestSpec],
    *,
    max_num_seqs: int,
    sharing: DeviceSharing | None = None,
    wire_ms: float = 0.0,
) -> list[Row]:
    """A row for every request in order of arrival. A GPU's worker prepares a step while one runs, a CPU's does not. ``sharing``: of one device;
    ``wire_ms``: of each message, the client's too (a request's own report counts from when the central scheduler has it)."""
    result = simulate(
        profile,
        workers,
        strategy,
        specs,
        max_num_seqs=max_num_seqs,
        overlap_host=profile.launches_ahead,
        sharing=sharing,
        wire_ms=wire_ms,
    )
    records = sorted(result.records, key=lambda record: int(record.request_id[1:]))
    assert all(record.num_output_tokens == spec.num_output_tokens for record, spec in zip(records, specs, strict=True))
    return [
        Row(r.arrival_s, r.num_prompt_tokens, r.num_output_tokens, (r.ttft_ms or 0.0) + wire_ms, r.tpot_ms, r.e2e_ms)
        for r in records
    ]
