"""Decisions as JSON lines: one request a line, with every plan that was looked at."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from nanopd.simulator.result import RequestRecord


def write_decisions(path: Path, records: Iterable[RequestRecord]) -> None:
    """The fields are those of ``Decision`` and ``Candidate``, beside what then happened."""
    with path.open("w") as file:
        for record in records:
            row = {
                "request_id": record.request_id,
                "decision": asdict(record.decision) if record.decision is not None else None,
                "num_prompt_tokens": record.num_prompt_tokens,
                "num_output_tokens": record.num_output_tokens,
                "ttft_ms": record.ttft_ms,
                "tpot_ms": record.tpot_ms,
                "e2e_ms": record.e2e_ms,
            }
            file.write(json.dumps(row) + "\n")
