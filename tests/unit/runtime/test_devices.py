import pytest

from nanopd.config import EngineConfig, Role, Topology, WorkerSpec
from nanopd.runtime.devices import num_gpus, place

WORKERS = Topology.parse("1C+1P+1D").workers()


def devices(placements):
    return {key: (p.engine.device, p.num_workers_on_device) for key, p in placements.items()}


def test_without_gpus_all_share_the_cpu():
    assert set(devices(place(WORKERS, EngineConfig(), gpus=0)).values()) == {("cpu", 3)}


def test_gpus_are_shared_round_robin():
    assert devices(place(WORKERS, EngineConfig(), gpus=2)) == {
        "collocated-0": ("cuda:0", 2),
        "prefill-0": ("cuda:1", 1),
        "decode-0": ("cuda:0", 2),
    }


def test_what_the_caller_names_is_kept():
    assert devices(place(WORKERS, EngineConfig(device="cpu"), gpus=2))["prefill-0"] == ("cpu", 3)
    specs = (WorkerSpec("a", Role.COLLOCATED, "cuda:1"), WorkerSpec("b", Role.COLLOCATED))
    assert devices(place(specs, EngineConfig(), gpus=2)) == {"a": ("cuda:1", 2), "b": ("cuda:1", 2)}


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0,3", 2)])
def test_visible_gpus_are_counted(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert num_gpus() == count
