"""Objectives by header, for clients that cannot add fields to the body: ``X-Nanopd-Slo: ttft_ms=300, tpot_ms=20, priority=-1``."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from nanopd.errors import InvalidRequestError
from nanopd.server.protocol import GenerationFields, SloFields

HEADER = "X-Nanopd-Slo"
_KINDS: dict[str, Callable[[str], float]] = {"ttft_ms": float, "tpot_ms": float, "priority": int}

F = TypeVar("F", bound=GenerationFields)


def with_header(fields: F, headers: Mapping[str, str]) -> F:
    """``fields`` with what the header says; the body's own ``slo`` and ``priority`` win. Raises InvalidRequestError naming the header."""
    given = _read(headers.get(HEADER, ""))
    if fields.slo is None and ("ttft_ms" in given or "tpot_ms" in given):
        fields.slo = SloFields(given.get("ttft_ms"), given.get("tpot_ms"))
    if fields.priority is None and "priority" in given:
        fields.priority = int(given["priority"])
    return fields


def _read(text: str) -> dict[str, float]:
    given: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        try:
            given[name] = _KINDS[name](value)
        except (KeyError, ValueError):
            raise InvalidRequestError(
                f"{HEADER} must look like ttft_ms=300, tpot_ms=20, priority=0 (any of them), got {text!r}", HEADER
            ) from None
    return given
