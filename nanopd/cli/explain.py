"""``nanopd explain``: why a request went where it went."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from nanopd.errors import ConfigError, RequestFailedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("request", help="the request's id")
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="JSON lines, as `nanopd simulate --decisions` writes them"
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a running server, when there is no --log")
    parser.add_argument(
        "--api-key", default=os.environ.get("NANOPD_API_KEY"), help="the server's (default: $NANOPD_API_KEY)"
    )


def run(args: argparse.Namespace) -> int:
    row = (
        _from_log(args.log, args.request)
        if args.log is not None
        else _from_server(args.url, args.request, args.api_key)
    )
    print("\n".join(explain(row)))
    return 0


def explain(row: dict[str, Any]) -> list[str]:
    """A decision in plain lines, the best plans first."""
    decision = row.get("decision")
    if not decision:
        return [f"{row['request_id']}: no worker was ready to take it"]
    chosen = decision["chosen"]
    lines = [f"{row['request_id']}: {decision['reason']} (policy {decision['policy']})"]
    if row.get("ttft_ms") is not None:
        lines.append(f"  measured: TTFT {row['ttft_ms']:.1f} ms, TPOT {row.get('tpot_ms') or 0.0:.2f} ms")
    candidates = sorted(decision["candidates"] or [chosen], key=lambda c: -(c.get("score") or 0.0))
    lines.append(
        f"  {'':1} {'prefill':<16} {'decode':<16} {'TTFT ms':>9} {'TPOT ms':>8} {'utility':>8} {'harm':>7} {'score':>8}"
    )
    for candidate in candidates:
        mark = "*" if candidate == chosen else " "
        numbers = [
            _number(candidate.get(name), digits) for name, digits in (("ttft_ms", 1), ("tpot_ms", 2), ("utility", 3))
        ]
        numbers += [_number(candidate.get(name), 3) for name in ("harm", "score")]
        ttft, tpot, utility, harm, score = numbers
        where = f"{candidate['prefill_worker']:<16} {candidate['decode_worker']:<16}"
        lines.append(f"  {mark} {where} {ttft:>9} {tpot:>8} {utility:>8} {harm:>7} {score:>8}")
    return lines


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _from_log(path: Path, request_id: str) -> dict[str, Any]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    for line in lines:
        row: dict[str, Any] = json.loads(line)
        if row.get("request_id") == request_id:
            return row
    raise RequestFailedError(f"{path} has no request {request_id!r} (it has {len(lines)} others)")


def _from_server(url: str, request_id: str, api_key: str | None) -> dict[str, Any]:
    from urllib.error import HTTPError, URLError
    from urllib.parse import quote
    from urllib.request import Request, urlopen

    address = f"{url.rstrip('/')}/debug/requests/{quote(request_id, safe='')}"
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with urlopen(Request(address, headers=headers), timeout=10.0) as answer:  # noqa: S310
            row: dict[str, Any] = json.load(answer)
            return row
    except HTTPError as error:
        if error.code == 401:
            raise RequestFailedError(f"{url} wants its API key: --api-key") from error
        raise RequestFailedError(
            f"{url} does not know request {request_id!r} ({error.code}); it keeps the last ones only"
        ) from error
    except URLError as error:
        raise RequestFailedError(f"no server answers at {url}: {error.reason}") from error
