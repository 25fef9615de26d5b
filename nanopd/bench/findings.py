"""What a reader of a record must know before believing it: sentences about the load generator and the machine."""

from nanopd.bench.record import Record

_BUSY_CLIENT = 0.7  # of a core
_LATE_MS = 50.0


def cautions(record: Record) -> tuple[str, ...]:
    """Empty when there is nothing to say."""
    stats = [(cell, record.stats(cell)) for cell in record.cells]
    sentences = []
    if busy := [cell for cell, one in stats if one.client_utilisation > _BUSY_CLIENT]:
        worst = max(busy, key=lambda cell: cell.client_utilisation)
        sentences.append(
            f"The load generator used up to {worst.client_utilisation:.0%} of a core ({worst.arm}, {worst.load_label}): "
            "latencies include its own cost."
        )
    if late := [(one.send_late_p99_ms, cell) for cell, one in stats if (one.send_late_p99_ms or 0.0) > _LATE_MS]:
        ms, cell = max(late, key=lambda pair: pair[0] or 0.0)
        sentences.append(
            f"The load generator was up to {ms:.0f} ms late (p99; {cell.arm}, {cell.load_label}); latency counts from the scheduled arrival."
        )
    measured = [sample for cell in record.cells for sample in cell.measured if sample.is_completed]
    if short := [sample for sample in measured if sample.num_output_tokens < sample.num_asked_tokens]:
        sentences.append(
            f"{len(short)} of {len(measured)} answers are shorter than was asked (the context is full, or the engine does not know ignore_eos): "
            "throughput and E2E of arms can be compared only if all arms did so alike."
        )
    environment = record.environment
    if environment.load_average > 0.25 * environment.num_cpus:
        sentences.append(
            f"The machine was not idle before the run (load average {environment.load_average} on {environment.num_cpus} CPUs): expect noise."
        )
    if errors := sorted({sample.error for cell in record.cells for sample in cell.measured if sample.error}):
        sentences.append(
            f"Errors that clients saw: {'; '.join(error[:120] for error in errors[:3])}{' ...' if len(errors) > 3 else ''}"
        )
    return tuple(sentences)
