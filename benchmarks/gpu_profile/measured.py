"""What the two halves hand over in files: what was measured on the machine, for the records that are made anywhere."""

import re
from pathlib import Path

import msgspec
from msgspec import structs

from benchmarks.fidelity.rows import Row
from nanopd.cost_model import StepFeatures

_COUNTS = ("no", "one", "two", "three", "four")


class Machine(msgspec.Struct, frozen=True):
    hardware: str
    num_devices: int  # GPUs; 0: a CPU
    commit: str

    @property
    def chip(self) -> str:
        """NVIDIA H100 80GB HBM3 -> H100."""
        found = re.search(r"\b[A-Z]{1,3}\d{2,4}\b", self.hardware)
        return found.group() if found is not None and self.num_devices else "CPU"

    @property
    def label(self) -> str:
        """Of file names: 2xh100."""
        return f"{self.num_devices}x{self.chip.lower()}" if self.num_devices else "try"

    @property
    def words(self) -> str:
        """two H100s"""
        count = _COUNTS[self.num_devices] if self.num_devices < len(_COUNTS) else str(self.num_devices)
        return f"{count} {self.chip}{'s' if self.num_devices > 1 else ''}" if self.num_devices else self.hardware


class ServedTrace(msgspec.Struct):
    """What the engine did with a trace."""

    name: str
    rows: list[Row]
    steps: list[tuple[StepFeatures, float]] = []  # where they can be seen

    def shortened(self) -> "ServedTrace":
        """Every tenth decode step is enough for the file."""
        kept = [s for i, s in enumerate(self.steps) if s[0].num_prefill_tokens or i % 10 == 0]
        return structs.replace(self, steps=[(features, round(ms, 3)) for features, ms in kept])


class Run(msgspec.Struct):
    """All traces on one set of workers."""

    workers: str
    served: list[ServedTrace]

    def trace(self, name: str) -> ServedTrace | None:
        return next((trace for trace in self.served if trace.name == name), None)

    def save(self, folder: Path) -> None:
        (folder / f"run-{self.workers}.json").write_bytes(msgspec.json.encode(self))


def load_runs(folder: Path) -> dict[str, Run]:
    """By workers."""
    runs = [msgspec.json.decode(path.read_bytes(), type=Run) for path in sorted(folder.glob("run-*.json"))]
    return {run.workers: run for run in runs}
