"""Where steps lie on their device, and what counts as idle."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nanopd.tracing.device_time import device_spans, device_use
from nanopd.tracing.logs import TracedStep, WorkerLog


def step(**times: Any) -> TracedStep:
    """Scheduled at once at ``began``, submitted at once, applied as it lands, unless said otherwise."""
    began, landed = times["began"], times["landed"]
    defaults = {
        "step_id": 0,
        "scheduled": began,
        "submitted": began,
        "awaited": began,
        "applied": landed,
        "device_ms": None,
        "num_prefill_tokens": 0,
        "num_prefills": 0,
        "num_decodes": 1,
        "request_ids": ("r#0",),
    }
    return TracedStep(**(defaults | times))


def log(*steps: TracedStep) -> WorkerLog:
    return WorkerLog("w", 0, "cpu", steps, ())


def test_a_step_that_was_waited_for_ends_as_it_lands() -> None:
    (span,) = device_spans([step(began=1.0, awaited=1.1, landed=2.0, device_ms=300.0)])
    assert (span.began, span.ended) == (1.7, 2.0)


def test_a_step_whose_result_lay_ready_ran_as_soon_as_it_could() -> None:
    first = step(began=0.0, awaited=0.0, landed=1.0, device_ms=1000.0)
    second = step(began=0.5, awaited=3.0, landed=3.0, device_ms=500.0)  # scheduled while the first ran, fetched late
    spans = device_spans([first, second])
    assert [(span.began, span.ended) for span in spans] == [(0.0, 1.0), (1.0, 1.5)]


def test_gaps_with_work_are_idle_time_and_gaps_without_are_not() -> None:
    steps = [
        step(began=0.0, landed=1.0, device_ms=1000.0),
        step(began=1.0, awaited=1.0, landed=2.1, device_ms=1000.0),  # the host was 0.1 s late
        step(began=7.1, awaited=7.1, landed=8.1, device_ms=1000.0),  # a new request, 5 s later
    ]
    use = device_use(log(*steps))
    assert abs(use.without_work_s - 5.0) < 1e-9
    assert abs(use.idle_share - 0.1 / 3.1) < 1e-9
    assert use.num_steps == use.num_decodes == 3


def test_no_steps() -> None:
    assert device_use(log()).idle_share == 0.0


@given(st.lists(st.tuples(*[st.floats(0.0, 2.0)] * 5, st.none() | st.floats(0.0, 5000.0)), max_size=20))
def test_spans_never_overlap_and_shares_stay_shares(
    rows: list[tuple[float, float, float, float, float, float | None]],
) -> None:
    steps, now = [], 0.0
    for rest, submit, wait, run, apply, device_ms in rows:
        began, awaited = now + rest, now + rest + submit + wait
        landed = awaited + run
        now = landed + apply
        steps.append(
            step(
                began=began, submitted=began + submit, awaited=awaited, landed=landed, applied=now, device_ms=device_ms
            )
        )
    spans = device_spans(steps)
    assert all(span.began <= span.ended for span in spans)
    assert all(earlier.ended <= later.began for earlier, later in zip(spans, spans[1:], strict=False))
    assert 0.0 <= device_use(log(*steps)).idle_share <= 1.0
