"""Anywhere: the profile and the records from what was measured.

Two things are taken from the steps of one of the two traces, so that the other is the test: how long a cool GPU computes prompts at full clocks,
and, where workers share a GPU, what each keeps of it.
"""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import structs

from benchmarks.fidelity.sharing import MeasuredSharing, sharing_of_logs
from benchmarks.gpu_profile.burst import with_burst
from benchmarks.gpu_profile.fidelity_record import Told, fidelity_record, verdicts
from benchmarks.gpu_profile.measured import Machine, Run, load_runs
from benchmarks.gpu_profile.profile_record import profile_record
from benchmarks.gpu_profile.setting import FIT_TRACE, LONE, Setting, lone_requests
from benchmarks.gpu_profile.wire import wire_ms
from nanopd.config import Topology
from nanopd.cost_model import HardwareProfile
from nanopd.cost_model.measurements import TransferPoint
from nanopd.profiler.points import spread
from nanopd.profiler.transfer import fit_transfer
from nanopd.tracing.logs import read_logs


def take(setting: Setting, folder: Path, results: Path, transfer: Path | None = None, note: str = "") -> str:
    """Writes into ``results``; returns what there is to say. ``transfer``: a record of benchmarks/transfer, where the profile saw one GPU only;
    ``note``: for the records, where not all was measured in one run."""
    machine = msgspec.json.decode((folder / "machine.json").read_bytes(), type=Machine)
    profiles = [HardwareProfile.load(path) for path in sorted(folder.glob("profile-*.json"))]
    runs = load_runs(folder)
    model = Path(setting.engine.model).name
    steps = next((trace.steps for trace in runs["1C"].served if trace.name == FIT_TRACE["1C"]), [])
    profiles[0] = profile = structs.replace(profiles[0], model=model, step=with_burst(profiles[0].step, steps))
    if transfer is not None:
        profiles[0] = profile = with_transfer(profile, transfer)
    stem = results / f"profile_{model}_{machine.label}_{profile.date}"
    profile.save(stem.with_suffix(".json"))
    stem.with_suffix(".md").write_text(profile_record(machine, profiles, note))
    texts = []
    for workers, run in runs.items():
        told = _told(setting, machine, profile, run, folder)
        told = replace(told, note=note) if note else told
        texts.append(fidelity_record(machine, profile, run, setting.traces, told))
        stem = results / f"fidelity_{workers.lower().replace('+', '')}_{machine.label}_{profile.date}"
        stem.with_suffix(".md").write_text(texts[-1])
        shortened = [trace.shortened() for trace in run.served]
        stem.with_suffix(".json").write_bytes(msgspec.json.encode(shortened) + b"\n")
    return verdicts(texts)


def with_transfer(profile: HardwareProfile, record: Path) -> HardwareProfile:
    """``profile`` with the transfer between GPUs by the pushes of ``record``, over the transport that comes first in it."""
    rates = [row for row in json.loads(record.read_text())["rows"] if row["what"] == "rate"]
    best = [row for row in rates if row["transport"] == rates[0]["transport"]]
    pushes = {row["num_bytes"]: [row["wall_ms"]] for row in best}  # medians
    measurements = profile.measurements
    model = fit_transfer(pushes)
    if measurements is not None:
        points = tuple(TransferPoint(n, spread(ms), model.transfer_ms(n)) for n, ms in sorted(pushes.items()))
        moved = tuple(
            structs.replace(point, transfer_ms=model.transfer_ms(point.num_tokens * profile.kv_bytes_per_token))
            for point in measurements.interference
        )
        measurements = structs.replace(measurements, transfer=points, interference=moved)
    return structs.replace(profile, transfer=model, measurements=measurements)


def _told(setting: Setting, machine: Machine, profile: HardwareProfile, run: Run, folder: Path) -> Told:
    sharing, apart = None, None
    if machine.num_devices == 1 and Topology.parse(run.workers).num_workers > 1:
        logs, _ = read_logs(folder / f"trace-{run.workers}")
        number = 1 + list(setting.traces).index(FIT_TRACE["shared"])  # the lone requests are trace 0
        sharing = sharing_of_logs(logs, profile.step, f"trace-{number}-")
        apart = msgspec.json.decode((folder / "sharing.json").read_bytes(), type=MeasuredSharing)
    lone = run.trace(LONE)
    each_ms = wire_ms(profile, run.workers, lone_requests(setting), lone.rows) if lone is not None else 0.0
    return Told(each_ms, sharing, apart)
