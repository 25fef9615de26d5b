"""``nanopd top`` over a frame as the server sends it."""

import io

import msgspec
import pytest
from rich.console import Console
from support.fake_controller import FakeController

from nanopd.cli import main
from nanopd.cli.top_view import render
from nanopd.cluster.events import FinishRequest, RequestReport
from nanopd.messages import LegTimes
from nanopd.request import FinishReason, Request, SamplingParams
from nanopd.router.plan import Candidate, Decision
from nanopd.server.dashboard.feed import DashboardFeed
from nanopd.server.dashboard.frame import Frame

REQUEST = Request("chatcmpl-abcdef", (1, 2, 3), SamplingParams(max_tokens=4, seed=0))
REPORT = RequestReport(
    decision=Decision(Candidate("prefill-0", "decode-0", total_ms=1500.0), "[b]cheaper[/b] there", "scripted"),
    num_prompt_tokens=412,
    num_output_tokens=40,
    num_attempts=1,
    ttft_s=0.5,
    e2e_s=2.0,
    tpot_s=0.04,
    prefill=LegTimes(prefill_ms=400),
    timeline=(
        (0.0, "reserving on decode-0"),
        (0.1, "prefilling on prefill-0"),
        (0.6, "decoding on decode-0"),
        (2.0, "finished stop"),
    ),
)


def shown(width: int) -> list[str]:
    controller = FakeController(lambda request: [])
    controller.live["chatcmpl-0123"] = REQUEST
    feed = DashboardFeed(controller, "tiny", "0", lambda: 100.0)  # type: ignore[arg-type]
    feed.on_finish(FinishRequest(REQUEST.request_id, FinishReason.STOP, REPORT), REQUEST)
    frame = msgspec.json.decode(feed.frame(), type=Frame)
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(render(frame, width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [" ".join(line.split()) for line in text.splitlines()]


def test_workers_and_requests_are_shown() -> None:
    lines = shown(160)
    assert "prefill-0 ready 3 0 0 25 / 100 - -" in lines
    assert "queued 0 -> prefill 0 -> transfer 0 -> decode 1" in lines
    assert "0123 decode prefill-0 > decode-0 1 1 100 ms" in lines
    (ended,) = (line for line in lines if line.startswith("abcd"))
    assert ended.endswith("[b]cheaper[/b] there 412 40 500 ms 2.0 s 1.5 s")


def test_a_narrow_terminal_leaves_the_reasons_out() -> None:
    (ended,) = (line for line in shown(110) if line.startswith("abcd"))
    assert "cheaper" not in ended
    assert ended.endswith("412 40 500 ms 2.0 s 1.5 s")


def test_a_server_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--url", "http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.startswith("nanopd top: cannot read http://127.0.0.1:1: ")
