"""One request to an OpenAI-compatible engine, and when its tokens came.

The prompt is sent as token ids, so every engine gets exactly the same lengths; ``ignore_eos`` makes outputs as long as the load says.
Tokens are dated by the piece of the stream that showed them. How many a piece holds is told by the running usage where the engine sends it
(nanopd, vLLM); elsewhere a piece counts as one and the final usage corrects the sum.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from nanopd.bench.sample import Outcome, Phases, Sample
from nanopd.errors import RequestFailedError
from nanopd.workload import RequestSpec


@dataclass(frozen=True, slots=True)
class Target:
    """An engine that answers, as its /v1/models describes it."""

    base_url: str
    model: str
    is_nanopd: bool
    num_workers: int | None = None  # nanopd tells
    api_key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


def probe(base_url: str, model: str | None = None, api_key: str | None = None) -> Target:
    """Asks the engine who it is. Raises RequestFailedError."""
    base_url = base_url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=base_url, headers=headers, timeout=30.0, trust_env=False) as client:
            answer = client.get("/v1/models").raise_for_status()
            card = answer.json()["data"][0]
            is_nanopd = card.get("owned_by") == "nanopd"
            workers = client.get("/health").json().get("workers") if is_nanopd else None
    except (httpx.HTTPError, ValueError, LookupError, AttributeError) as error:
        raise RequestFailedError(f"no OpenAI-compatible engine at {base_url}: {error!r}") from error
    return Target(base_url, model or card["id"], is_nanopd, len(workers) if workers else None, api_key)


def request_body(target: Target, spec: RequestSpec, prompt: tuple[int, ...], stream: bool) -> bytes:
    """The JSON of POST /v1/completions; made before the clock runs, since it costs the client's CPU."""
    fields: dict[str, Any] = {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": spec.num_output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }
    if stream:
        fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    if target.is_nanopd:
        fields["debug"] = True
        slo = {"ttft_ms": spec.slo.ttft_ms, "tpot_ms": spec.slo.tpot_ms}
        fields |= {"priority": spec.priority, "slo": slo, "user": spec.tenant}
    return msgspec.json.encode(fields)


@dataclass(slots=True)
class Exchange:
    """A request from being due to its end. Times are ``time.perf_counter`` seconds."""

    index: int
    spec: RequestSpec
    due: float
    sent: float = 0.0
    token_times: list[float] = field(default_factory=list)
    num_output_tokens: int = 0
    ended: float | None = None
    outcome: Outcome = Outcome.UNFINISHED
    error: str | None = None
    path: str | None = None
    phases: Phases | None = None

    async def run(self, client: httpx.AsyncClient, body: bytes) -> None:
        """Sends and reads to the end; every failure becomes an outcome. Cancelled, it stays unfinished."""
        self.sent = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        try:
            async with client.stream("POST", "/v1/completions", content=body, headers=headers) as response:
                if response.status_code != 200:
                    self._fail(
                        Outcome.REFUSED if response.status_code == 429 else Outcome.FAILED,
                        (await response.aread()).decode(errors="replace"),
                    )
                elif response.headers["content-type"].startswith("text/event-stream"):
                    await self._read_stream(response.aiter_raw())
                else:
                    self._read_piece(await response.aread(), time.perf_counter())
        except httpx.HTTPError as error:
            self._fail(Outcome.FAILED, repr(error))
        self.ended = time.perf_counter()
        if self.outcome is Outcome.UNFINISHED:
            self._fail(Outcome.FAILED, "the answer broke off")

    def sample(self, origin: float) -> Sample:
        """What it came to; ``origin`` is the load's start."""
        return Sample(
            index=self.index,
            scheduled_s=round(self.due - origin, 6),
            sent_s=round((self.sent or self.due) - origin, 6),
            num_prompt_tokens=self.spec.num_prompt_tokens,
            outcome=self.outcome,
            num_output_tokens=max(self.num_output_tokens, len(self.token_times)),
            num_asked_tokens=self.spec.num_output_tokens,
            token_ms=tuple(round((moment - self.due) * 1e3, 2) for moment in self.token_times),
            e2e_ms=round((self.ended - self.due) * 1e3, 2)
            if self.ended is not None and self.outcome is Outcome.COMPLETED
            else None,
            ttft_slo_ms=self.spec.slo.ttft_ms,
            tpot_slo_ms=self.spec.slo.tpot_ms,
            error=self.error,
            path=self.path,
            phases=self.phases,
        )

    async def _read_stream(self, pieces: AsyncIterator[bytes]) -> None:
        rest = b""
        async for piece in pieces:
            now = time.perf_counter()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                    self._read_piece(data, now, is_streamed=True)

    def _read_piece(self, data: bytes, now: float, is_streamed: bool = False) -> None:
        """A piece of a stream, or a whole answer."""
        try:
            piece = _DECODER.decode(data)
        except msgspec.MsgspecError as error:
            return self._fail(Outcome.FAILED, f"not a completion ({error}): {data[:200].decode(errors='replace')}")
        if piece.error is not None:
            return self._fail(Outcome.FAILED, str(piece.error))
        if is_streamed:
            self._count_tokens(piece, now)
        elif piece.usage is not None:
            self.num_output_tokens = piece.usage.completion_tokens
        if any(choice.finish_reason in ("stop", "length") for choice in piece.choices):
            self.outcome = Outcome.COMPLETED
        if piece.nanopd is not None:
            self._read_report(next(iter(piece.nanopd["reports"].values()), None))

    def _count_tokens(self, piece: "_Piece", now: float) -> None:
        has_text = any(choice.text for choice in piece.choices)
        count = len(self.token_times) + has_text if piece.usage is None else piece.usage.completion_tokens
        del self.token_times[count:]
        if not piece.choices and self.token_times:
            now = self.token_times[-1]  # the final sum: these tokens had come before
        self.token_times += [now] * (count - len(self.token_times))

    def _read_report(self, report: dict[str, Any] | None) -> None:
        if report is None:
            return
        chosen, prefill = report["decision"]["chosen"], report["prefill"]
        is_moved = chosen["prefill_worker"] != chosen["decode_worker"]
        decode = report["decode"] if is_moved else prefill
        self.path = "disaggregated" if is_moved else "collocated"
        self.phases = Phases(
            ttft_ms=round((report["ttft_s"] or 0.0) * 1e3, 3),
            queue_ms=round(prefill["queue_ms"] + (decode["queue_ms"] if is_moved else 0.0), 3),
            prefill_ms=round(prefill["prefill_ms"], 3),
            transfer_ms=round(report["transfer_ms"], 3),
            transfer_exposed_ms=round(report["transfer_exposed_ms"], 3),
            decode_ms=round(decode["decode_ms"], 3),
        )

    def _fail(self, outcome: Outcome, error: str) -> None:
        if self.error is None:  # the first cause is the one that tells
            self.outcome, self.error = outcome, error[:500]


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Choice(msgspec.Struct):
    text: str | None = None
    finish_reason: str | None = None


class _Piece(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None
    nanopd: dict[str, Any] | None = None


_DECODER = msgspec.json.Decoder(_Piece)
