"""The engine of one worker: schedule, submit, update."""

from collections import deque
from collections.abc import Sequence
from statistics import median

from nanopd.batch import Batch
from nanopd.clock import Clock
from nanopd.decoding import Drafter
from nanopd.engine.beams import Beams
from nanopd.engine.executor import Executor, StepHandle
from nanopd.engine.observer import StepObserver
from nanopd.engine.report import StepReport, step_timing
from nanopd.messages import StepTiming, WorkerStats
from nanopd.request import Request
from nanopd.scheduler import LegKind, Outcomes, PlainDecodes, Scheduler

STEP_MS_WINDOW = 32  # steps whose median is the worker's step time


class Engine:
    """Runs legs of requests on one device. ``seq_id`` names a leg and is used once.

    With ``pipeline_depth`` 2 step n+1 is submitted before the result of step n is known, so the device does not wait for the host.
    With a ``drafter`` a step verifies its guesses; then the depth is 1, for a guess goes on from tokens that are known.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        clock: Clock,
        pipeline_depth: int = 1,
        drafter: Drafter | None = None,
        observer: StepObserver | None = None,
    ) -> None:
        if pipeline_depth < 1:
            raise ValueError(f"pipeline_depth must be at least 1, got {pipeline_depth}")
        if drafter is not None and pipeline_depth > 1:
            raise ValueError(f"pipeline_depth must be 1 with a drafter, got {pipeline_depth}")
        self.scheduler = scheduler
        self._executor = executor
        self._clock = clock
        self._depth = pipeline_depth
        self._drafter = drafter
        self._beams = Beams(scheduler)
        self._observer = observer
        self._in_flight: deque[tuple[Batch, StepHandle, float]] = deque()  # with the time of submission
        self._last_result_time = clock.now()
        self._recent_step_ms: deque[float] = deque(maxlen=STEP_MS_WINDOW)
        self._timing: StepTiming | None = None

    # ---- the loop of a worker

    def step(self) -> StepReport:
        """Submits the next step if the pipeline has room, waits for the oldest if it has none (or nothing can be submitted).

        Returns at once when there is nothing to do, or when a reservation or an end is to be told: the step then runs on meanwhile.
        """
        batch = self.launch()
        is_full = len(self._in_flight) >= self._depth
        if self._in_flight and (is_full or batch is None) and not self._has_news:
            self.collect()
        return self.report()

    def launch(self) -> Batch | None:
        """Schedules and submits one step. None if the pipeline is full or nothing can run."""
        if len(self._in_flight) >= self._depth:
            return None
        began = self._clock.now()
        batch = self._schedule()
        if batch is not None:
            submitted = self._clock.now()  # before: some executors run the step while it is submitted
            self._in_flight.append((batch, self._executor.submit(batch), submitted))
            if self._observer is not None:
                self._observer.submitted(batch, began, submitted, self._clock.now())
        return batch

    def _schedule(self) -> Batch | None:
        drafts = (
            self._drafter.propose(self.scheduler.draftable(self._clock.now())) if self._drafter is not None else None
        )
        batch = self.scheduler.schedule(self._clock.now(), drafts)
        is_stuck = batch is None and not (
            self._in_flight and self.scheduler.is_running
        )  # else a step in flight frees something
        if is_stuck and self._beams.let_go():
            batch = self.scheduler.schedule(self._clock.now())
        return batch

    def collect(self) -> None:
        """Waits for the oldest step in flight and applies its result. Raises what the step raised."""
        batch, handle, submitted = self._in_flight.popleft()
        awaited = self._clock.now()
        result = handle.result()
        now = self._clock.now()
        step_ms = (now - max(submitted, self._last_result_time)) * 1e3  # steps run one after another
        if self._depth > 1 and result.device_ms is not None:
            step_ms = result.device_ms  # launching the next step may have kept the host from noticing this one's end
        self._last_result_time = now
        self._recent_step_ms.append(step_ms)
        self._timing = step_timing(batch, step_ms)
        self.scheduler.update(result, now)
        if self._observer is not None:
            self._observer.collected(batch, result, awaited, now, self._clock.now())

    def report(self) -> StepReport:
        """What happened since the last report."""
        outcomes, timing = self.scheduler.outcomes, self._timing
        self.scheduler.outcomes, self._timing = Outcomes(), None
        self._beams.take(outcomes, self._clock.now())
        return StepReport(
            tuple(outcomes.outputs), tuple(outcomes.reserved), tuple(outcomes.computed), tuple(outcomes.ended), timing
        )

    def fast_forward(
        self, decodes: PlainDecodes, token_id: int, landed: Sequence[float], submitted: Sequence[float]
    ) -> list[StepTiming]:
        """For simulations: as many steps as ``landed`` has times (seconds) at once, each of which sampled ``token_id`` for every sequence.

        ``submitted``: when the steps not in flight now were. The executor gets those alone that are in flight then. Tells nothing in ``report``.
        """
        batch, began = decodes.first_batch, [*(when for _, _, when in self._in_flight), *submitted]
        first, timings = step_timing(batch, 0.0), []
        for index, now in enumerate(landed):
            step_ms = (now - max(began[index], self._last_result_time)) * 1e3
            self._last_result_time = now
            self._recent_step_ms.append(step_ms)
            context = first.decode_context + index * first.num_decodes
            timings.append(StepTiming(0, 0.0, first.num_decodes, context, step_ms, 0))
        batches = decodes.advance(len(landed), token_id)
        self._in_flight = deque(
            (batch, self._executor.submit(batch), when)
            for batch, when in zip(batches, began[len(landed) :], strict=True)
        )
        return timings

    @property
    def has_work(self) -> bool:
        """Whether ``step`` would do something now. What waits for blocks that others hold is not work."""
        return bool(self._in_flight) or self._has_news or self.scheduler.has_work or self._beams.can_let_go

    @property
    def _has_news(self) -> bool:
        outcomes = self.scheduler.outcomes
        return bool(outcomes.reserved or outcomes.ended or outcomes.outputs)

    # ---- legs

    def run_local(self, seq_id: str, request: Request, output_token_ids: Sequence[int] = ()) -> None:
        """Prefills and decodes here. ``output_token_ids`` were generated by an earlier attempt: they are computed like the prompt.

        A request with ``beam`` set is searched from its start, and answers all at once in its last output.
        """
        if request.beam is not None:
            self._beams.open(seq_id, request, self._clock.now())
            return
        self.scheduler.add(seq_id, request, LegKind.LOCAL, self._clock.now(), output_token_ids)

    def prefill(self, seq_id: str, request: Request, output_token_ids: Sequence[int] = ()) -> None:
        """Computes the sequence, samples one token, then holds the blocks until ``release``."""
        self.scheduler.add(seq_id, request, LegKind.PREFILL, self._clock.now(), output_token_ids)

    def reserve(self, seq_id: str, request: Request, output_token_ids: Sequence[int] = ()) -> None:
        """Sets blocks aside for KV that another worker computes; queued until they are there, answered in ``StepReport.reserved``."""
        self.scheduler.add(seq_id, request, LegKind.RESERVED, self._clock.now(), output_token_ids)

    def start(self, seq_id: str, first_token_id: int) -> None:
        """The KV of a reserved sequence has arrived: decodes from here. Ignored when the sequence is gone."""
        self.scheduler.start(seq_id, first_token_id, self._clock.now())

    def fork(
        self, seq_id: str, new_seq_id: str, request: Request, output_token_ids: Sequence[int] = (), hold: bool = False
    ) -> None:
        """A new leg that shares the computed KV of ``seq_id`` (running or held) as far as their tokens agree.

        ``hold``: sample one token, then hold the KV until ``release``, for further forks.
        """
        kind = LegKind.BEAM if hold else LegKind.LOCAL
        self.scheduler.fork(seq_id, new_seq_id, request, kind, self._clock.now(), output_token_ids)

    def abort(self, seq_id: str) -> None:
        """Ends a leg; ``StepReport.ended`` tells when nothing of it is left. Unknown ids are ignored.

        A prefill leg that has reported a ``ComputedRange`` keeps its blocks until ``release``: a push may be reading them.
        """
        if not self._beams.abort(seq_id):
            self.scheduler.abort(seq_id)

    def release(self, seq_id: str) -> None:
        """Every push of a prefill leg has ended, done or cancelled: its blocks go.

        Silent for a held prefill; one that was aborted, or was still computing (it is aborted by this), is told in ``StepReport.ended``.
        """
        self.scheduler.release(seq_id)

    def stats(self) -> WorkerStats:
        return self.scheduler.stats(median(self._recent_step_ms) if self._recent_step_ms else 0.0)
