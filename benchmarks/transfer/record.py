"""What is kept of a run: every row as JSON, the medians as tables."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import msgspec

from nanopd.bench.environment import describe_environment

_TITLES = {
    "rate": "Scattered blocks from one process to another",
    "pcie": "Plain copies of large pinned buffers",
    "overlap": "Prefill beside its push",
    "ttft": "Time to first token, client's clock, idle system",
    "ttft parts": "Where that time goes: to the first token, and from the end of the prefill to the second",
}


class Record:
    """Rows, written after each: what was measured is not lost with what follows."""

    def __init__(self, out: Path | None, settings: dict[str, Any]) -> None:
        self._out = out
        environment = msgspec.to_builtins(describe_environment())
        environment["command"] = shlex.join(["python", "-m", "benchmarks.transfer", *sys.argv[1:]])
        self._head = {"environment": environment, "settings": settings}
        self._rows: list[dict[str, Any]] = []

    def note(self, **row: Any) -> None:
        self._rows.append(row)
        if row["what"] != "raw":
            print(json.dumps(row), flush=True)
        if self._out is not None:
            document = {**self._head, "rows": self._rows}
            self._out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
            self._out.with_suffix(".md").write_text(self._markdown())

    def _markdown(self) -> str:
        environment, devices = self._head["environment"], self._head["settings"]["devices"]
        lines = [
            f"# KV transfer, {devices[0]} to {devices[1]}, {environment['date'][:10]}",
            "",
            f"{', '.join(environment['gpus']) or environment['cpu']}, torch {environment['versions'].get('torch')}, commit {environment['commit']}; "
            f"`{environment['command']}`. Medians; every single time is in the `.json` beside this. Method: `benchmarks/transfer/__main__.py`.",
        ]
        if devices[0] == devices[1] != "cpu":
            lines += [
                "",
                "Both processes share one GPU: peer to peer, the link is that GPU's own memory; the relay crosses the GPU's one PCIe link in "
                "both directions at once; a push takes its SMs and its memory's bandwidth from the prefill twice, as sender and as receiver.",
            ]
        for what, title in _TITLES.items():
            found = [row for row in self._rows if row["what"] == what]
            if found:
                names = [name for name in found[0] if name not in ("what", "num_bytes")]
                lines += ["", f"## {title}", "", f"| {' | '.join(map(_heading, names))} |", "|" + " --- |" * len(names)]
                lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in found]
        compared = [row["is_exact"] for row in self._rows if "is_exact" in row]
        if compared:
            lines += [
                "",
                f"Compared bit for bit: the last push of each of {len(compared)} rows; {sum(compared)} equal.",
            ]
        return "\n".join(lines) + "\n"


def _heading(name: str) -> str:
    for unit, text in (("_ms", ", ms"), ("_percent", ", %")):
        if name.endswith(unit):
            return name.removesuffix(unit).replace("_", " ") + text
    return name.replace("gb_s", "GB/s").replace("_", " ")
