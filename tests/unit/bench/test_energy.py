import sys
from types import SimpleNamespace

import pytest

from nanopd.bench.arm import Arm
from nanopd.bench.cell import Cell, CellStats
from nanopd.bench.client import Target
from nanopd.bench.energy import EnergyMeter
from nanopd.bench.runner import _may_use_our_gpus
from nanopd.bench.sample import Outcome, Sample
from nanopd.request import Slo


class FakeNvml:
    """GPU n has used n joules at first, and one more at every look."""

    def __init__(self, count: int) -> None:
        self.count, self.looks = count, [0] * count

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return range(self.count)[index]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        self.looks[handle] += 1
        return 1000 * (handle + self.looks[handle] - 1)


def install(monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None = None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(count))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_the_gpus_of_the_arm_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 4)
    meter = EnergyMeter.open(2)
    assert meter is not None
    before = meter.joules()
    assert meter.joules() - before == 2.0


def test_visible_devices_count(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 4, "3")
    meter = EnergyMeter.open(2)
    assert meter is not None
    assert meter.joules() == 4.0  # GPU 3, at the second look


@pytest.mark.parametrize("module", [None, SimpleNamespace(), FakeNvml(0)])
def test_without_nvml_there_is_no_energy(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert EnergyMeter.open(1) is None


def test_joules_per_token() -> None:
    samples = tuple(Sample(i, 0.0, 0.0, 8, Outcome.COMPLETED, 10, (1.0,), 1.0) for i in range(3))
    cell = Cell("arm", "short", 0.0, 1.0, 1.0, 0.1, samples, concurrency=1, energy_j=60.0)
    assert CellStats.of(cell, Slo(), 1).joules_per_output_token == 2.0


def test_only_engines_that_may_use_this_machines_gpus_are_metered() -> None:
    here, there = (Target(url, "m", True) for url in ("http://127.0.0.1:80", "http://10.0.0.1:80"))
    assert _may_use_our_gpus(Arm("a", 1, ("--workers", "1C")), here)
    assert not _may_use_our_gpus(Arm("a", 1, ("--device", "cpu")), here)
    assert not _may_use_our_gpus(Arm("a", 1, base_url=there.base_url), there)
