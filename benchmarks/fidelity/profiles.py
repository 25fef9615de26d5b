"""The profile of this machine as the workers will find it: measured just before, with as many processes at work as there will be workers."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nanopd.cost_model import HardwareProfile

_QUICK_BELOW_S = 10.0


def profile_now(options: Sequence[str], num_workers: int, budget_s: float) -> HardwareProfile:
    """``options``: of nanopd profile. While one process measures, ``num_workers - 1`` others do the same, so that what workers of one machine take of
    each other's memory bandwidth is in the times."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "profile.json"
        with _neighbours(options, num_workers - 1, budget_s, Path(folder)):
            subprocess.run(_command(options, budget_s, out, 0), check=True)
        return HardwareProfile.load(out)


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
