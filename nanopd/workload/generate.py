"""Shapes and arrivals joined."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from random import Random

from nanopd.request import Slo
from nanopd.workload.arrivals import arrival_times
from nanopd.workload.shapes import Shape, make_shape
from nanopd.workload.spec import PREFIX_BLOCK, RequestSpec


def generate(
    shape: Shape,
    arrivals: Iterable[float],
    *,
    count: int | None = None,
    duration_s: float | None = None,
    slo: Slo | None = None,
    seed: int = 0,
) -> list[RequestSpec]:
    """The first ``count`` requests, or those of the first ``duration_s`` seconds (at least one bound). ``slo`` replaces the shape's own.

    Every prompt gets a hash for each of its 512-token blocks; beyond what the shape shares they are unique. Raises ValueError.
    """
    if count is None and duration_s is None:
        raise ValueError("generate needs count or duration_s, got neither")
    rng, fresh = Random(f"shape/{seed}"), Random(f"hashes/{seed}")
    specs = []
    for arrival in islice(arrivals, count):
        if duration_s is not None and arrival > duration_s:
            break
        drawn = shape.draw(rng)
        num_blocks = -(-drawn.num_prompt_tokens // PREFIX_BLOCK)
        unique = tuple(fresh.getrandbits(62) for _ in range(num_blocks - len(drawn.prefix_hashes)))
        specs.append(
            RequestSpec(
                arrival,
                drawn.num_prompt_tokens,
                drawn.num_output_tokens,
                drawn.max_tokens,
                drawn.tenant,
                slo or drawn.slo,
                (drawn.prefix_hashes + unique)[:num_blocks],
                drawn.priority,
            )
        )
    return specs


def named_workload(
    shape: str,
    arrivals: str,
    rate: float,
    *,
    count: int | None = None,
    duration_s: float | None = None,
    slo: Slo | None = None,
    seed: int = 0,
) -> list[RequestSpec]:
    """``generate`` by the names of ``SHAPES`` and ``ARRIVALS``."""
    return generate(
        make_shape(shape), arrival_times(arrivals, rate, seed), count=count, duration_s=duration_s, slo=slo, seed=seed
    )


def with_rate(specs: Sequence[RequestSpec], rate: float) -> list[RequestSpec]:
    """The same requests with time stretched so that they come at ``rate`` per second on average."""
    span = specs[-1].arrival_s - specs[0].arrival_s if specs else 0.0
    if span <= 0.0 or rate <= 0.0:
        raise ValueError(
            f"a rate can be set for requests that arrive over some time, got {len(specs)} over {span} s at {rate}"
        )
    factor = (len(specs) - 1) / span / rate
    start = specs[0].arrival_s
    return [replace(spec, arrival_s=(spec.arrival_s - start) * factor) for spec in specs]
