"""What figures are drawn from: the JSON files that nanopd writes, told apart by what they hold."""

from pathlib import Path
from typing import Any

import msgspec

from nanopd.bench.plots.predictor import PredictorScores
from nanopd.bench.record import FORMAT, Record, read_record
from nanopd.bench.transfer_record import FORMAT as TRANSFER_FORMAT
from nanopd.bench.transfer_record import TransferRecord
from nanopd.cost_model import HardwareProfile
from nanopd.errors import ConfigError

Source = Record | HardwareProfile | TransferRecord | PredictorScores


class _Head(msgspec.Struct):
    """The fields that tell."""

    format: str | None = None
    step: Any = None
    traces: Any = None


def read_source(path: Path) -> Source:
    """Raises ConfigError for anything else, and for a file that cannot be read."""
    try:
        data = path.read_bytes()
        head = msgspec.json.decode(data, type=_Head)
        if head.format == FORMAT:
            return read_record(path)
        if head.format == TRANSFER_FORMAT:
            return msgspec.json.decode(data, type=TransferRecord)
        if head.step is not None:
            return HardwareProfile.parse(data, str(path))
        if head.traces is not None:
            return msgspec.json.decode(data, type=PredictorScores)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    raise ConfigError(
        f"{path} must be a record of nanopd bench, a hardware profile, or the scores of benchmarks/predictor.py"
    )
