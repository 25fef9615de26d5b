"""What is kept of a run: NAME.json (every request) and NAME.md (the tables). Nothing is ever overwritten."""

from pathlib import Path
from typing import Any

import msgspec

from nanopd.bench.arm import Arm
from nanopd.bench.cell import Cell, CellStats
from nanopd.bench.environment import Environment
from nanopd.errors import ConfigError
from nanopd.request import Slo

FORMAT = "nanopd-bench/1"


class Record(msgspec.Struct, frozen=True):
    """A run."""

    kind: str  # static, poisson, sweep, trace, offline
    environment: Environment
    seed: int
    settings: dict[str, Any]  # the options of the run, for the reader and for resuming
    slo_ttft_ms: float | None
    slo_tpot_ms: float | None
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    findings: tuple[str, ...] = ()  # sentences
    format: str = FORMAT

    @property
    def slo(self) -> Slo:
        return Slo(self.slo_ttft_ms, self.slo_tpot_ms)

    @property
    def num_workers(self) -> int:
        """Of each arm."""
        return self.arms[0].num_workers

    def stats(self, cell: Cell) -> CellStats:
        return CellStats.of(cell, self.slo, self.num_workers)

    def of_arm(self, arm: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.arm == arm]


def check_free(base: Path) -> None:
    """Raises ConfigError if a record of that name is there: asked before anything is measured."""
    for path in _paths(base):
        if path.exists():
            raise ConfigError(f"{path} exists, and records are not overwritten: give another --out")


def write_record(base: Path, record: Record, markdown: str) -> tuple[Path, Path]:
    """Writes BASE.json and BASE.md. Raises ConfigError if either exists."""
    return write_pair(base, _json(record), markdown)


def write_pair(base: Path, json: bytes, markdown: str) -> tuple[Path, Path]:
    """Writes BASE.json and BASE.md. Raises ConfigError if either exists."""
    check_free(base)
    base.parent.mkdir(parents=True, exist_ok=True)
    paths = _paths(base)
    for path, text in zip(paths, (json, markdown.encode()), strict=True):
        with path.open("xb") as file:
            file.write(text)
    return paths


def write_partial(path: Path, record: Record) -> None:
    """The state of an unfinished run: replaced as a whole, so that it is never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(_json(record))
    fresh.replace(path)


def read_record(path: Path) -> Record:
    """Raises ConfigError."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"cannot read the record {path}: {error}") from error
    if record.format != FORMAT:
        raise ConfigError(f"{path} must be a {FORMAT} record, got {record.format}")
    return record


def _paths(base: Path) -> tuple[Path, Path]:
    return base.with_name(base.name + ".json"), base.with_name(base.name + ".md")


def _json(record: Record) -> bytes:
    """One line for each request, so that a record can be read and diffed; the figures of each cell are there for other programs."""
    head = msgspec.to_builtins(msgspec.structs.replace(record, cells=()))
    del head["cells"]
    return (
        _open_object(head)
        + b',\n"cells": [\n'
        + b",\n".join(_cell_json(record, cell) for cell in record.cells)
        + b"\n]\n}\n"
    )


def _cell_json(record: Record, cell: Cell) -> bytes:
    head = msgspec.to_builtins(msgspec.structs.replace(cell, samples=()))
    del head["samples"]
    head["stats"] = _rounded(msgspec.to_builtins(record.stats(cell)))
    return _open_object(head) + b',\n"samples": [\n' + b",\n".join(map(msgspec.json.encode, cell.samples)) + b"\n]}"


def _open_object(fields: dict[str, Any]) -> bytes:
    """An object without its closing brace."""
    return msgspec.json.format(msgspec.json.encode(fields), indent=1).removesuffix(b"\n}")


def _rounded(value: Any) -> Any:
    """To five digits: a measurement has no more."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
