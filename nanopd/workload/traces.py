"""Traces as files: Mooncake's JSON lines and Azure's CSV as they are published, and our own JSON lines, a superset of Mooncake's.

Mooncake (FAST '25): timestamp in ms, input_length, output_length, hash_ids (one for 512 tokens). Azure (Splitwise, ISCA '24): TIMESTAMP,
ContextTokens, GeneratedTokens. Neither says what the client allowed: ``max_tokens`` is then the caller's, or the output where that is longer.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from nanopd.errors import ConfigError
from nanopd.request import Slo
from nanopd.workload.spec import RequestSpec

DEFAULT_MAX_TOKENS = 4096


def read_trace(path: Path, limit: int | None = None) -> list[RequestSpec]:
    """A trace by its suffix: .jsonl (Mooncake's or ours) or .csv (Azure's). Raises ConfigError."""
    readers = {".jsonl": read_mooncake, ".csv": read_azure}
    if path.suffix not in readers:
        raise ConfigError(f"a trace must be a .jsonl or .csv file, got {path.name}")
    return readers[path.suffix](path, limit)


def read_mooncake(path: Path, limit: int | None = None, max_tokens: int = DEFAULT_MAX_TOKENS) -> list[RequestSpec]:
    """JSON lines; arrivals count from the first. Raises ConfigError."""
    with _open(path) as file:
        return _from_first(
            [_mooncake_spec(path, number, line, max_tokens) for number, line in enumerate(islice(file, limit), 1)]
        )


def read_azure(path: Path, limit: int | None = None, max_tokens: int = DEFAULT_MAX_TOKENS) -> list[RequestSpec]:
    """CSV with a header; arrivals count from the first. Raises ConfigError."""
    with _open(path) as file:
        rows = csv.DictReader(file)
        return _from_first(
            [_azure_spec(path, number, row, max_tokens) for number, row in enumerate(islice(rows, limit), 2)]
        )


def write_trace(path: Path, specs: Iterable[RequestSpec]) -> None:
    """Our JSON lines; ``read_trace`` gives the same requests back (arrivals to the microsecond)."""
    with path.open("w") as file:
        for spec in specs:
            file.write(json.dumps(_row(spec)) + "\n")


def _row(spec: RequestSpec) -> dict[str, Any]:
    return {
        "timestamp": round(spec.arrival_s * 1e3, 3),
        "input_length": spec.num_prompt_tokens,
        "output_length": spec.num_output_tokens,
        "hash_ids": list(spec.prefix_hashes),
        "max_tokens": spec.max_tokens,
        "tenant": spec.tenant,
        "ttft_ms": spec.slo.ttft_ms,
        "tpot_ms": spec.slo.tpot_ms,
        "priority": spec.priority,
    }


def _mooncake_spec(path: Path, number: int, line: str, max_tokens: int) -> RequestSpec:
    try:
        row = json.loads(line)
        output = max(1, row["output_length"])
        return RequestSpec(
            row["timestamp"] / 1e3,
            max(1, row["input_length"]),
            output,
            row.get("max_tokens", max(max_tokens, output)),
            row.get("tenant", ""),
            Slo(row.get("ttft_ms"), row.get("tpot_ms")),
            tuple(row.get("hash_ids", ())),
            row.get("priority", 0),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path.name}, line {number}: not a trace record ({error!r})") from error


def _azure_spec(path: Path, number: int, row: dict[str, str], max_tokens: int) -> RequestSpec:
    try:
        seconds = (datetime.fromisoformat(row["TIMESTAMP"]) - datetime(1970, 1, 1)).total_seconds()
        output = max(1, int(row["GeneratedTokens"]))
        return RequestSpec(seconds, max(1, int(row["ContextTokens"])), output, max(max_tokens, output))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path.name}, line {number}: not a trace record ({error!r})") from error


def _from_first(specs: list[RequestSpec]) -> list[RequestSpec]:
    if not specs:
        return []
    first = min(spec.arrival_s for spec in specs)
    return sorted((replace(spec, arrival_s=spec.arrival_s - first) for spec in specs), key=lambda spec: spec.arrival_s)


def _open(path: Path) -> TextIO:
    try:
        return path.open(newline="")
    except OSError as error:
        raise ConfigError(f"cannot read the trace {path}: {error.strerror}") from error
