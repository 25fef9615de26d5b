"""A controller without workers: answers every request from a script, and remembers what was asked of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from nanopd.cluster.events import EmitTokens, FinishRequest, RequestReport
from nanopd.cluster.snapshot import ClusterSnapshot, Counters, RequestSnapshot, WorkerSnapshot
from nanopd.config import ClusterConfig, ModelConfig, Role
from nanopd.cost_model import StepFit
from nanopd.errors import OverloadedError
from nanopd.messages import Leg, TokenDelta, WorkerStats
from nanopd.request import BeamParams, FinishReason, Hypothesis, Request, TokenLogprobs
from nanopd.router.plan import Candidate, Decision
from nanopd.runtime.admission import resolve_request

DECISION = Decision(Candidate("prefill-0", "decode-0"), "the prompt is long", "scripted")


def tiny_model(vocab_size: int, eos_token_ids: tuple[int, ...] = ()) -> ModelConfig:
    return ModelConfig("llama", vocab_size, 8, 8, 1, 1, 1, 8, 128, 1e-5, 1e4, eos_token_ids=eos_token_ids)


class FakeStream:
    """See runtime.RequestStream."""

    def __init__(self, controller: "FakeController", request: Request) -> None:
        self.request = request
        self.finish: FinishRequest | None = None
        self._controller = controller

    async def __aiter__(self) -> AsyncIterator[TokenDelta]:
        request, controller = self.request, self._controller
        if controller.refusal is not None:
            self._end(FinishReason.REFUSED, 0, controller.refusal)
            return
        if request.beam is not None:
            yield self._search(request.beam)
            return
        for index, token_id in enumerate(controller.script(request)):
            while controller.is_held and request.request_id not in controller.aborted:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            if request.request_id in controller.aborted:
                self._end(controller.aborted[request.request_id], index)
                return
            if index == controller.fails_at:
                self._end(FinishReason.ERROR, index, "the decode worker was lost 4 times")
                return
            delta = self._delta(index, token_id)
            for hook in controller.on_tokens:
                hook(EmitTokens(request.request_id, delta))
            yield delta
            if token_id in request.stop_ids:
                break
            if index + 1 == request.sampling.max_tokens:
                self._end(FinishReason.LENGTH, index + 1)
                return
        self._end(controller.aborted.get(request.request_id, FinishReason.STOP), index + 1)

    def _end(self, reason: FinishReason, num_tokens: int, error: str | None = None) -> None:
        report = RequestReport(
            DECISION, len(self.request.prompt_token_ids), num_tokens, 1, 0.5, 1.0, 0.1, transfer_bytes=64, transport="x"
        )
        self._controller.live.pop(self.request.request_id, None)
        self.finish = FinishRequest(self.request.request_id, reason, report, error)
        for hook in self._controller.on_finish:
            hook(self.finish, self.request)

    def _search(self, beam: BeamParams) -> TokenDelta:
        """Hypotheses of one token, two, three: the script's beginnings."""
        tokens = self._controller.script(self.request)
        hypotheses = tuple(
            Hypothesis(tuple(tokens[: count + 1]), -1.0 - count, -1.0 - count, FinishReason.LENGTH)
            for count in range(beam.width)
        )
        self._end(FinishReason.LENGTH, 1)
        return TokenDelta(Leg(self.request.request_id, 0), 0, hypotheses[0].token_ids, hypotheses=hypotheses)

    def _delta(self, index: int, token_id: int) -> TokenDelta:
        sampling = self.request.sampling
        logprobs = () if sampling.logprobs is None else (fake_logprobs(token_id, sampling.logprobs),)
        prompt = None
        if sampling.prompt_logprobs is not None and index == 0:
            prompt = tuple(
                fake_logprobs(token, sampling.prompt_logprobs) for token in self.request.prompt_token_ids[1:]
            )
        return TokenDelta(Leg(self.request.request_id, 0), index, (token_id,), logprobs, prompt)


def fake_logprobs(token_id: int, num_top: int) -> TokenLogprobs:
    """The tokens below ``token_id`` are the most probable ones."""
    return TokenLogprobs(token_id, -1.5, tuple((token_id - i, -1.0 - i) for i in range(1, num_top + 1)))


class FakeController:
    """See runtime.Controller."""

    def __init__(
        self, script: Callable[[Request], Sequence[int]], vocab_size: int = 258, max_model_len: int = 128
    ) -> None:
        self.script = script
        self.model_config = tiny_model(vocab_size)
        self.max_model_len = max_model_len
        self.submitted: list[Request] = []
        self.aborted: dict[str, FinishReason] = {}
        self.live: dict[str, Request] = {}
        self.is_held = False  # True: no token comes until it is False again
        self.fails_at: int | None = None  # output index at which every request fails
        self.refusal: str | None = None  # then every request ends so
        self.capacity = 1000
        self.cluster_config = ClusterConfig(max_queued_requests=1000)
        self.ready = {Role.COLLOCATED: True, Role.PREFILL: True, Role.DECODE: True}
        self.on_tokens: list[Callable[[EmitTokens], None]] = []
        self.on_finish: list[Callable[[FinishRequest, Request], None]] = []

    def submit(self, request: Request) -> FakeStream:
        if len(self.live) >= self.capacity:
            raise OverloadedError(
                f"{len(self.live)} requests are in flight, the bound is {self.capacity}", retry_after_s=3.0
            )
        request = resolve_request(request, self.model_config.vocab_size, self.max_model_len, now=1.0)
        self.submitted.append(request)
        self.live[request.request_id] = request
        return FakeStream(self, request)

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        if request_id in self.live:
            self.aborted[request_id] = reason
            self.live.pop(request_id)

    def snapshot(self) -> ClusterSnapshot:
        workers = tuple(
            WorkerSnapshot(f"{role.value}-0", role, 2, ready, 100, 0, WorkerStats(num_running=3, num_free_blocks=75))
            for role, ready in self.ready.items()
        )
        requests = tuple(RequestSnapshot(key, "decoding", 0.1, 0, 1, 1, DECISION) for key in self.live)
        counters = Counters(
            requests=7, finished={"stop": 2, "error": 1}, paths={"disaggregated": 5}, handoffs=5, transfer_bytes=4096
        )
        return ClusterSnapshot(1.0, workers, requests, counters, 0, StepFit(90, 0.04, 0.12, 1.1))
