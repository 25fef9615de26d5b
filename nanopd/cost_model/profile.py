"""A hardware profile: everything measured about one device and model, in one JSON file."""

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from nanopd.cost_model.features import StepSample
from nanopd.cost_model.measurements import Measurements
from nanopd.cost_model.step_model import StepModel, StepTerms
from nanopd.cost_model.transfer import TransferModel
from nanopd.errors import ConfigError

VERSION = 1


class HardwareProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What ``nanopd profile`` writes; the router and the simulator read it."""

    version: int = VERSION
    hardware: str
    model: str
    dtype: str
    source: str  # how the numbers came about
    commit: str = ""
    date: str = ""
    kv_bytes_per_token: int
    block_size: int = 16
    num_blocks: int  # of one worker's KV pool
    max_model_len: int
    step: StepModel
    transfer: TransferModel
    host_overhead_ms: float  # of one engine step, beside the device's work
    held_out_errors: dict[
        str, float
    ] = {}  # kind of step, or "all" -> median relative error on steps the fit has not seen
    samples: tuple[StepSample, ...] = ()
    measurements: Measurements | None = None  # the same and more as points for figures, beside the fit

    def __post_init__(self) -> None:
        for name in ("kv_bytes_per_token", "block_size", "num_blocks", "max_model_len"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a hardware profile must be at least 1, got {getattr(self, name)}")

    @property
    def launches_ahead(self) -> bool:
        """Whether the worker launches a step while one runs, as on a GPU: its steps have graphs, or a launch of their own."""
        return bool(self.step.terms.ladder) or self.step.terms.launch_ms > 0.0

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self, enc_hook=_encode), indent=1) + b"\n")

    @classmethod
    def parse(cls, data: bytes, name: str = "profile") -> "HardwareProfile":
        """Raises ConfigError on anything that is not such a profile."""
        try:
            version = msgspec.json.decode(data, type=_Version).version
            if version != VERSION:
                raise ConfigError(f"{name}: version {VERSION} is read, got {version}; profile the hardware again")
            return msgspec.json.decode(data, type=cls, dec_hook=_decode)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name} is not a hardware profile: {error}") from error

    @classmethod
    def load(cls, path: Path) -> "HardwareProfile":
        """Raises ConfigError if the file cannot be read or is not a profile."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the hardware profile {path}: {error.strerror}") from error
        return cls.parse(data, str(path))


class _Version(msgspec.Struct):
    version: int


def bundled_names() -> tuple[str, ...]:
    """Profiles that come with nanopd."""
    folder = resources.files("nanopd.cost_model") / "profiles"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def bundled(name: str) -> HardwareProfile:
    """A profile that comes with nanopd, by name. Raises ConfigError."""
    if name not in bundled_names():
        raise ConfigError(f"hardware profile must be a file or one of {', '.join(bundled_names())}, got {name!r}")
    return HardwareProfile.parse(
        (resources.files("nanopd.cost_model") / "profiles" / f"{name}.json").read_bytes(), name
    )


def _encode(value: Any) -> Any:
    if isinstance(value, StepModel):
        return value.terms
    raise NotImplementedError(type(value))


def _decode(kind: type, value: Any) -> Any:
    if kind is StepModel:
        return StepModel(msgspec.convert(value, StepTerms))
    raise NotImplementedError(kind)
