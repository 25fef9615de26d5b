"""The profile of this machine as the workers will find it, measured just before; and what workers of one machine take of each other."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from nanopd.cost_model import HardwareProfile
from nanopd.simulator.device import DeviceSharing

_QUICK_BELOW_S = 10.0
_BESIDE_S = 9.0


def profile_now(options: Sequence[str], num_workers: int, budget_s: float) -> HardwareProfile:
    """``options``: of nanopd profile. While one process measures, ``num_workers - 1`` others do the same."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "profile.json"
        with _neighbours(options, num_workers - 1, budget_s, Path(folder)):
            subprocess.run(_command(options, budget_s, out, 0), check=True)
        return HardwareProfile.load(out)


def sharing_now(options: Sequence[str], num_workers: int, alone: HardwareProfile) -> DeviceSharing:
    """Workers of one machine share its caches, memory bandwidth and perhaps cores: how fast steps are while all of them work, against ``alone``."""
    beside = profile_now(options, num_workers, _BESIDE_S)
    pace = {
        is_decode: median(
            alone.step.predict_ms(sample.features) / sample.ms
            for sample in beside.samples
            if (sample.features.num_prefill_tokens == 0) == is_decode
        )
        for is_decode in (True, False)
    }
    return DeviceSharing(decode=num_workers * pace[True], prefill=num_workers * pace[False])


@contextmanager
def _neighbours(options: Sequence[str], count: int, budget_s: float, folder: Path) -> Iterator[None]:
    """They measure longer than needed, and are stopped."""
    running = [
        subprocess.Popen(
            _command(options, 10 * budget_s, folder / f"other-{index}.json", index + 1), stdout=subprocess.DEVNULL
        )
        for index in range(count)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _command(options: Sequence[str], budget_s: float, out: Path, seed: int) -> list[str]:
    own = ["--budget", str(budget_s), "--out", str(out), "--seed", str(seed)]
    own += ["--quick"] if budget_s < _QUICK_BELOW_S else []
    return [sys.executable, "-m", "nanopd", "profile", *own, *options]


def load_average() -> float:
    return round(os.getloadavg()[0], 1)
