"""What is kept of a transfer measurement."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

from nanopd.bench.environment import Environment
from nanopd.bench.record import write_pair

FORMAT = "nanopd-transfer/1"


class TransferPoint(msgspec.Struct, frozen=True):
    """One size, moved several times."""

    num_blocks: int
    num_bytes: int
    ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return median(self.ms)

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes per second, by the median."""
        return self.num_bytes / (self.median_ms * 1e6)


def points_of(ms_by_blocks: Mapping[int, Sequence[float]], block_bytes: int) -> tuple[TransferPoint, ...]:
    return tuple(TransferPoint(size, size * block_bytes, tuple(ms)) for size, ms in ms_by_blocks.items())


class TransferRecord(msgspec.Struct, frozen=True):
    """A run: points by transport, and of the plain copy."""

    environment: Environment
    model: str
    block_size: int
    devices: tuple[str, str]
    seed: int
    series: dict[str, tuple[TransferPoint, ...]]
    format: str = FORMAT


def write_transfer(base: Path, record: TransferRecord) -> tuple[Path, Path]:
    """Writes BASE.json and BASE.md. Raises ConfigError if either exists."""
    json = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    return write_pair(base, json, transfer_markdown(record))


def transfer_markdown(record: TransferRecord) -> str:
    """The whole document."""
    environment = record.environment
    names = list(record.series)
    lines = [
        f"# nanopd bench transfer, {environment.date[:10]}",
        "",
        f"{', '.join(environment.gpus) or environment.cpu}, {environment.num_cpus} CPUs; load average before {environment.load_average}; commit "
        f"{environment.commit or 'unknown'}; `{environment.command}`. KV blocks of {record.model}, bfloat16, {record.block_size} tokens each, "
        f"scattered, between two processes ({' to '.join(record.devices)}); from the push to its fence, median of {_num_rounds(record)}.",
        "",
        "| blocks | tokens | MB | " + " | ".join(f"{name}, ms | GB/s" for name in names) + " |",
        "| --- " * (3 + 2 * len(names)) + "|",
    ]
    for points in zip(*record.series.values(), strict=True):
        one = points[0]
        cells = [f"{point.median_ms:.3f} | {point.gb_per_s:.2f}" for point in points]
        tokens = one.num_blocks * record.block_size
        lines.append(f"| {one.num_blocks} | {tokens} | {one.num_bytes / 1e6:.2f} | {' | '.join(cells)} |")
    lines += ["", "Every size was checked once to have arrived bit by bit. All times are in the `.json` beside this."]
    return "\n".join(lines) + "\n"


def _num_rounds(record: TransferRecord) -> int:
    return len(next(iter(record.series.values()))[0].ms)
