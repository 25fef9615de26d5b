"""The sweep on real arms. After every cell the state is kept beside the record, so that a sweep that was cut off goes on where it stopped."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nanopd.bench.arm import Arm
from nanopd.bench.cell import Cell
from nanopd.bench.client import Target
from nanopd.bench.load import Load
from nanopd.bench.progress import Progress
from nanopd.bench.record import Record, read_record, write_partial
from nanopd.bench.runner import Connection, measure, open_arm
from nanopd.bench.sweep import SweepPlan, keeps_up, sweep_arm
from nanopd.errors import ConfigError


@dataclass(slots=True)
class Sweep:
    """One sweep under way. ``record`` grows by a cell at a time."""

    plan: SweepPlan
    record: Record
    state: Path
    load_at: Callable[[float], Load]
    connection: Connection
    progress: Progress
    best: dict[str, float | None] = field(default_factory=dict)

    def resume(self) -> None:
        """Takes the cells of a state that was left behind. Raises ConfigError if it is of another sweep."""
        if not self.state.exists():
            return
        earlier = read_record(self.state)
        for name in ("arms", "seed", "settings", "slo_ttft_ms", "slo_tpot_ms"):
            if getattr(earlier, name) != getattr(self.record, name):
                raise ConfigError(
                    f"{self.state} was left by a sweep with other {name}: remove it, or give another --out"
                )
        self.progress.say(f"resuming: {len(earlier.cells)} measurements are known")
        self.record = msgspec.structs.replace(self.record, cells=earlier.cells)

    def run(self) -> Record:
        """Every arm to its edge."""
        for arm in self.record.arms:
            self.best[arm.name] = self._sweep(arm)
        criterion = (
            "keeps the objectives"
            if self.record.slo_ttft_ms or self.record.slo_tpot_ms
            else "keeps up without dropping a request"
        )
        findings = tuple(
            f"{arm}: {f'{rate:g} requests/s is the highest measured rate that' if rate else 'no measured rate'} {criterion}"
            for arm, rate in self.best.items()
        )
        return msgspec.structs.replace(self.record, findings=findings)

    def _sweep(self, arm: Arm) -> float | None:
        target: Target | None = None
        with ExitStack() as engine:  # started at the first measurement that is still missing

            def measured(rate: float) -> Cell:
                nonlocal target
                if target is None:
                    self.progress.say(f"{arm.name}: {arm.description}")
                    target = engine.enter_context(open_arm(arm, self.connection))
                cell = measure(
                    arm, target, self.load_at(rate).with_slo(self.record.slo), self.connection, self.progress
                )
                self.record = msgspec.structs.replace(self.record, cells=(*self.record.cells, cell))
                write_partial(self.state, self.record)
                return cell

            return sweep_arm(self.plan, self.record.of_arm(arm.name), measured, self._keeps_up)

    def _keeps_up(self, cell: Cell) -> bool:
        return keeps_up(cell, self.record.stats(cell), self.record.slo, self.plan.attainment)
