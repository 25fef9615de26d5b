"""What every arm of a run is given: requests that are generated once, before anything is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from nanopd.errors import ConfigError
from nanopd.request import Slo
from nanopd.workload import RequestSpec, named_workload, read_trace, with_rate


@dataclass(frozen=True, slots=True)
class Lengths:
    """How a named workload is cut to the machine at hand, the same for every arm."""

    prompt_scale: float = 1.0
    output_tokens: int | None = None  # every output exactly this long; None: as the workload has it

    def __post_init__(self) -> None:
        if self.prompt_scale <= 0.0 or (self.output_tokens is not None and self.output_tokens < 1):
            raise ConfigError(
                f"prompt_scale must be above 0 and output_tokens at least 1, got {self.prompt_scale} and {self.output_tokens}"
            )

    def cut(self, specs: Sequence[RequestSpec]) -> tuple[RequestSpec, ...]:
        return tuple(self._cut(spec) for spec in specs)

    def _cut(self, spec: RequestSpec) -> RequestSpec:
        num_output = self.output_tokens or spec.num_output_tokens
        num_prompt = max(1, round(spec.num_prompt_tokens * self.prompt_scale))
        return replace(
            spec,
            num_prompt_tokens=num_prompt,
            num_output_tokens=num_output,
            max_tokens=max(num_output, spec.max_tokens),
        )


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement's requests. ``rate`` (open loop, per second) or ``concurrency`` (closed loop), never both.

    Open loop::

        0 .. warmup_s       requests come, not counted
        .. + window_s       requests come, counted
        .. + drain_s        no more come; what has not finished at the end is dropped
    """

    workload: str
    specs: tuple[RequestSpec, ...]
    prompt_seed: int
    rate: float | None = None
    concurrency: int | None = None
    warmup_s: float = 0.0
    window_s: float = 0.0
    drain_s: float = 0.0
    stream: bool = True  # False: whole answers, for throughput without the client's cost of a stream

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.concurrency is None):
            raise ConfigError(f"a load has a rate or a concurrency, got {self.rate} and {self.concurrency}")
        if not self.specs:
            raise ConfigError(
                f"the load {self.label} has no requests: a longer window or a higher rate would give some"
            )

    @property
    def label(self) -> str:
        return self.workload + (f", {self.rate:g}/s" if self.rate is not None else f", {self.concurrency} at a time")

    def with_slo(self, slo: Slo) -> "Load":
        """The run's objectives in place of the requests' own, so that a router that cares knows them. None set: unchanged."""
        return self if slo == Slo() else replace(self, specs=tuple(replace(spec, slo=slo) for spec in self.specs))


def closed_load(
    workload: str, count: int, concurrency: int, lengths: Lengths, seed: int, *, stream: bool = True
) -> Load:
    """``count`` requests of a named workload, ``concurrency`` of them at a time. Raises ConfigError."""
    if count < 1 or concurrency < 1:
        raise ConfigError(f"num_requests and concurrency must be at least 1, got {count} and {concurrency}")
    specs = lengths.cut(_named(workload, "static", 1.0, seed, count=count))
    return Load(workload, specs, _prompt_seed(seed, workload), concurrency=concurrency, stream=stream)


def open_load(
    workload: str,
    arrivals: str,
    rate: float,
    lengths: Lengths,
    seed: int,
    warmup_s: float,
    window_s: float,
    drain_s: float,
) -> Load:
    """Requests of a named workload that come at ``rate`` per second on average, for ``warmup_s + window_s``. Raises ConfigError."""
    if warmup_s < 0.0 or window_s <= 0.0 or drain_s < 0.0:
        raise ConfigError(
            f"warmup_s and drain_s must be 0 or more and window_s above 0, got {warmup_s}, {drain_s} and {window_s}"
        )
    specs = lengths.cut(_named(workload, arrivals, rate, seed, duration_s=warmup_s + window_s))
    # Other prompts at every rate: a prefix cache that knows the last rate's would make this one look better than it is.
    return Load(workload, specs, _prompt_seed(seed, f"{workload}/{rate:g}"), rate, None, warmup_s, window_s, drain_s)


def trace_load(path: Path, limit: int | None, rate: float | None, lengths: Lengths, seed: int, drain_s: float) -> Load:
    """The requests of a file at its own times, or stretched to ``rate``. Raises ConfigError."""
    specs: Sequence[RequestSpec] = read_trace(path, limit)
    try:
        specs = with_rate(specs, rate) if rate is not None else specs
    except ValueError as error:
        raise ConfigError(str(error)) from error
    window_s = max((spec.arrival_s for spec in specs), default=0.0)
    own_rate = (len(specs) - 1) / window_s if window_s > 0.0 else float(len(specs))
    return Load(
        path.stem, lengths.cut(specs), _prompt_seed(seed, path.stem), rate or own_rate, None, 0.0, window_s, drain_s
    )


def _named(
    workload: str, arrivals: str, rate: float, seed: int, *, count: int | None = None, duration_s: float | None = None
) -> list[RequestSpec]:
    try:
        return named_workload(workload, arrivals, rate, count=count, duration_s=duration_s, seed=seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _prompt_seed(seed: int, label: str) -> int:
    return crc32(f"{seed}/{label}".encode())
