"""On the machine: profiles of one device, and the traces on every set of workers."""

import contextlib
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from benchmarks.fidelity.cluster import serve_cluster
from benchmarks.fidelity.engine import serve
from benchmarks.fidelity.sharing import measure_sharing, neighbour
from benchmarks.fidelity.trace import make_trace
from benchmarks.gpu_profile.measured import Machine, Run, ServedTrace
from benchmarks.gpu_profile.setting import LONE, Setting, lone_requests, strategy_of
from nanopd.config import ClusterConfig, Topology
from nanopd.model_runner.device import resolve_device
from nanopd.profiler import load_runner, measured_config, profile_runner
from nanopd.profiler.hardware import hardware_name
from nanopd.request import Strategy

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from nanopd.model_runner import ModelRunner


class Measurement:
    """Writes what it measures into a folder, as soon as it is there."""

    def __init__(self, setting: Setting, out: Path, min_rounds: int) -> None:
        self._setting, self._out, self._min_rounds = setting, out, min_rounds
        self._began = time.perf_counter()
        device = resolve_device(setting.engine.device)
        num_devices = torch.cuda.device_count() if device.type == "cuda" else 0
        self.machine = Machine(hardware_name(device), num_devices, commit())
        (out / "machine.json").write_bytes(msgspec.json.encode(self.machine))

    def say(self, what: str) -> None:
        print(f"{time.perf_counter() - self._began:6.1f} s  {what}", flush=True)

    def one_device(self, num_profiles: int, with_sharing: bool) -> None:
        """A profile, the traces on one worker (in this process), what two processes on a GPU take of one another, more profiles."""
        config = measured_config(self._setting.engine)
        with contextlib.ExitStack() as stack:
            pipe = stack.enter_context(neighbour(config)) if with_sharing else None
            runner = load_runner(config, quick=self._setting.quick)
            self.say("loaded")
            if pipe is not None:
                assert pipe.recv() == "rests"
            self._profile(runner, 0)
            self._serve(runner)
            if pipe is not None:
                self._sharing(runner, pipe)
            for number in range(1, num_profiles):
                self._profile(runner, number)

    async def cluster(self, workers: str) -> None:
        """The traces, and requests one at a time, on worker processes; their logs go to ``trace-WORKERS``."""
        setting = self._setting
        cluster = ClusterConfig(Topology.parse(workers), Strategy(strategy_of(workers)))
        config = replace(setting.engine, trace_dir=str(self._out / f"trace-{workers}"))
        names = [LONE, *setting.traces]
        traces = [lone_requests(setting), *(make_trace(*drawn) for drawn in setting.traces.values())]
        run, left = Run(workers, []), list(names)
        async for rows in serve_cluster(config, cluster, traces):
            run.served.append(ServedTrace(left.pop(0), rows))
            run.save(self._out)
            self.say(f"{workers}, {run.served[-1].name}: {len(rows)} requests")

    def _profile(self, runner: "ModelRunner", number: int) -> None:
        measured = profile_runner(
            runner,
            measured_config(self._setting.engine),
            budget_s=1.0,
            min_rounds=self._min_rounds,
            quick=self._setting.quick,
            seed=number,
            commit=self.machine.commit,
        )
        profile = measured.profile
        profile.save(self._out / f"profile-{number}.json")
        transfer = (
            f"{measured.transport} {profile.transfer.latency_ms:.3f} ms + {profile.transfer.bandwidth_gb_s:.0f} GB/s"
        )
        errors = ", ".join(f"{kind} {error:.1%}" for kind, error in profile.held_out_errors.items())
        self.say(f"profile {number}: spread {measured.spread:.1%}, held out {errors}, {transfer}")

    def _serve(self, runner: "ModelRunner") -> None:
        setting, run = self._setting, Run("1C", [])
        serve(runner, setting.engine, make_trace(*setting.warm_up))
        for name, drawn in setting.traces.items():
            served = serve(runner, setting.engine, make_trace(*drawn))
            run.served.append(ServedTrace(name, served.rows, served.steps))
            run.save(self._out)
            self.say(f"1C, {name}: {len(served.steps)} steps")

    def _sharing(self, runner: "ModelRunner", pipe: "Connection") -> None:
        sharing = measure_sharing(runner, pipe)
        (self._out / "sharing.json").write_bytes(msgspec.json.encode(sharing))
        self.say(sharing.describe())


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()
