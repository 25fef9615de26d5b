"""The dashboard's feed and files, over a fake controller. What the page does with them: tests/e2e/test_dashboard.py."""

import asyncio
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.fake_controller import DECISION, FakeController
from support.fake_server import Server, make_server

from nanopd.cluster.events import EmitTokens, FinishRequest, RequestReport
from nanopd.cluster.snapshot import RequestSnapshot
from nanopd.config import ServerConfig
from nanopd.messages import Leg, LegTimes, TokenDelta
from nanopd.request import FinishReason, Request, SamplingParams
from nanopd.server.dashboard.feed import HISTORY_S, MAX_FINISHED, DashboardFeed
from nanopd.server.dashboard.frame import Frame
from nanopd.server.dashboard.phases import Phase, Stage, phases, stage_of

FILES = {
    file.name: file.read_text()
    for file in (resources.files("nanopd.server.dashboard") / "static").iterdir()
    if file.is_file()
}
GRAFANA = Path(__file__).parents[3] / "docs" / "grafana" / "nanopd.json"
REQUEST = Request("r", (1, 2, 3), SamplingParams(max_tokens=4, seed=0))
REPORT = RequestReport(DECISION, 3, 4, 1, 0.5, 2.0, 0.5)

# ---- phases


def of_stage(spans: tuple[Phase, ...]) -> list[tuple[str, float, float]]:
    return [(span.stage.value, round(span.start_s, 6), round(span.end_s, 6)) for span in spans]


def test_a_collocated_request_queues_prefills_decodes() -> None:
    report = replace(
        REPORT,
        prefill=LegTimes(queue_ms=100, prefill_ms=380),
        timeline=((0.0, "local on collocated-0"), (2.0, "finished stop")),
    )
    assert of_stage(phases(report)) == [("queued", 0.0, 0.1), ("prefill", 0.1, 0.5), ("decode", 0.5, 2.0)]
    assert {span.worker for span in phases(report)} == {"collocated-0"}


def test_a_hand_off_shows_what_overlap_did_not_hide() -> None:
    report = replace(
        REPORT,
        prefill=LegTimes(queue_ms=50, prefill_ms=300),
        timeline=(
            (0.0, "reserving on decode-0"),
            (0.1, "prefilling on prefill-0"),
            (0.7, "decoding on decode-0"),
            (2.0, "finished length"),
        ),
    )
    assert of_stage(phases(report)) == [
        ("queued", 0.0, 0.1),
        ("queued", 0.1, 0.15),
        ("prefill", 0.15, 0.5),
        ("transfer", 0.5, 0.7),
        ("decode", 0.7, 2.0),
    ]
    assert [span.worker for span in phases(report)] == ["decode-0", "prefill-0", "prefill-0", "prefill-0", "decode-0"]


def test_work_of_an_attempt_that_was_given_up_is_lost() -> None:
    report = replace(
        REPORT,
        num_attempts=2,
        prefill=LegTimes(queue_ms=0, prefill_ms=400),
        timeline=(
            (0.0, "local on collocated-0"),
            (0.8, "queued"),
            (1.0, "local on collocated-1"),
            (2.0, "finished stop"),
        ),
    )
    assert of_stage(phases(report)) == [
        ("lost", 0.0, 0.8),
        ("queued", 0.8, 1.0),
        ("prefill", 1.0, 1.4),
        ("decode", 1.4, 2.0),
    ]


def test_a_request_that_ended_early_has_no_gap() -> None:
    aborted = replace(REPORT, ttft_s=None, timeline=((0.0, "local on collocated-0"), (2.0, "finished abort")))
    assert of_stage(phases(aborted)) == [("prefill", 0.0, 2.0)]
    assert phases(replace(REPORT, timeline=())) == ()


@pytest.mark.parametrize(
    ("state", "num_output_tokens", "attempt", "stage"),
    [
        ("queued", 0, -1, Stage.QUEUED),
        ("reserving", 0, 0, Stage.QUEUED),
        ("local", 0, 0, Stage.PREFILL),
        ("local", 1, 0, Stage.DECODE),
        ("prefilling", 0, 0, Stage.PREFILL),
        ("prefilling", 1, 0, Stage.TRANSFER),
        ("prefilling", 7, 1, Stage.PREFILL),
        ("decoding", 1, 0, Stage.DECODE),
    ],
)
def test_stage_of_a_live_request(state: str, num_output_tokens: int, attempt: int, stage: Stage) -> None:
    assert stage_of(RequestSnapshot("r", state, 0.1, attempt, 3, num_output_tokens, DECISION)) is stage


# ---- feed


class Feed:
    """A feed on a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.controller = FakeController(lambda request: [])
        self.num_snapshots = 0
        snapshot = self.controller.snapshot

        def counted() -> Any:
            self.num_snapshots += 1
            return snapshot()

        self.controller.snapshot = counted  # type: ignore[method-assign]
        self.feed = DashboardFeed(self.controller, "tiny", "0", lambda: self.now, 0.5)  # type: ignore[arg-type]

    def finish(self, request_id: str) -> None:
        self.feed.on_finish(FinishRequest(request_id, FinishReason.STOP, REPORT), REQUEST)

    def emit(self, count: int) -> None:
        self.feed.on_tokens(EmitTokens("r", TokenDelta(Leg("r", 0), 0, (7,) * count)))

    def frame(self, after: int = 0) -> Frame:
        return msgspec.json.decode(self.feed.frame(after), type=Frame)


def test_a_frame_tells_what_ended_since_the_last() -> None:
    feed = Feed()
    for name in "abc":
        feed.finish(name)
    assert [r.request_id for r in feed.frame().finished] == ["a", "b", "c"]
    assert [(r.number, r.request_id) for r in feed.frame(after=2).finished] == [(3, "c")]
    for i in range(MAX_FINISHED):
        feed.finish(str(i))
    assert len(feed.frame().finished) == MAX_FINISHED


def test_a_frame_describes_the_cluster() -> None:
    feed = Feed()
    feed.controller.live["r"] = REQUEST
    live = feed.frame().live
    assert live.server.topology == "1C"
    assert [worker.worker_id for worker in live.workers] == ["collocated-0", "prefill-0", "decode-0"]
    assert live.stages == {Stage.QUEUED: 0, Stage.PREFILL: 0, Stage.TRANSFER: 0, Stage.DECODE: 1}
    assert [(r.request_id, r.stage, r.decision.reason) for r in live.requests] == [("r", Stage.DECODE, DECISION.reason)]


def test_tokens_are_counted_by_whole_seconds() -> None:
    feed = Feed()
    feed.emit(3)
    feed.emit(2)
    assert sum(feed.frame().live.tokens_per_s) == 0  # the second still runs
    feed.now += 1.0
    feed.emit(4)
    feed.now += 3.0
    rates = feed.frame().live.tokens_per_s
    assert (len(rates), rates[-4:]) == (HISTORY_S, (5, 4, 0, 0))
    feed.now += 10 * HISTORY_S
    assert feed.frame().live.tokens_per_s == (0,) * HISTORY_S


def test_nobody_looking_costs_no_snapshot_and_many_cost_one() -> None:
    feed = Feed()
    feed.emit(1)
    feed.finish("a")
    assert feed.num_snapshots == 0
    for _ in range(5):
        feed.frame()
    assert feed.num_snapshots == 1
    feed.now += 0.5
    feed.frame()
    assert feed.num_snapshots == 2


def test_a_stream_goes_on_until_the_feed_is_closed() -> None:
    async def check() -> None:
        feed = Feed()
        feed.finish("a")
        stream = feed.feed.events()
        first = json.loads((await anext(stream)).removeprefix(b"data: "))
        assert [r["request_id"] for r in first["finished"]] == ["a"]
        feed.finish("b")
        second = json.loads((await anext(stream)).removeprefix(b"data: "))
        assert [r["request_id"] for r in second["finished"]] == ["b"]
        asyncio.get_running_loop().call_soon(feed.feed.close)  # while the reader waits for the next frame
        assert [event async for event in stream] == []
        assert [event async for event in feed.feed.events()] == []

    asyncio.run(check())


# ---- routes


@pytest.fixture
def locked() -> Server:
    return make_server(config=ServerConfig(api_key="secret"))


def test_the_state_is_for_those_who_have_the_key(locked: Server) -> None:
    for path in ("/dashboard/state", "/dashboard/events"):
        assert locked.client.get(path).status_code == 401
    key = {"Authorization": "Bearer secret"}
    state = locked.client.get("/dashboard/state", headers=key).json()
    assert state["live"]["server"]["model"] == "tiny"


def test_the_files_are_for_everybody(locked: Server) -> None:
    page = locked.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src" not in page.headers["content-security-policy"]  # default-src 'self' rules scripts too
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    for name in re.findall(r'(?:src|href)="(/dashboard/[^"]+)"', page.text):
        assert locked.client.get(name).status_code == 200
    assert locked.client.get("/dashboard/..%2Ffeed.py").status_code == 404
    assert locked.client.get("/dashboard/nothing.js").status_code == 404


def test_state_after_a_request(server: Server) -> None:
    server.complete()
    (finished,) = server.client.get("/dashboard/state").json()["finished"]
    assert (finished["reason"], finished["report"]["decision"]["reason"]) == ("stop", DECISION.reason)
    assert server.client.get("/dashboard/state?after=1").json()["finished"] == []
    refused = server.client.get("/dashboard/state?after=-1")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


def test_events_are_a_stream(server: Server) -> None:
    server.client.app.state.dashboard.close()  # type: ignore[attr-defined]
    response = server.client.get("/dashboard/events")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/event-stream")


# ---- files


def test_nothing_is_loaded_from_elsewhere() -> None:
    known = ("http://www.w3.org/2000/svg",)
    for name, text in FILES.items():
        addresses = [address for address in re.findall(r"https?://[^\s\"')]+", text) if address not in known]
        assert addresses == [], name


def test_data_never_becomes_markup() -> None:
    for name, text in FILES.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name


def test_every_import_and_element_exists() -> None:
    ids = set(re.findall(r'\bid="([^"]+)"', FILES["index.html"]))
    for name, text in FILES.items():
        if name.endswith(".js"):
            assert set(re.findall(r'from "\./([^"]+)"', text)) <= FILES.keys(), name
            assert set(re.findall(r'(?:\$|getElementById)\("([^"]+)"\)', text)) <= ids, name


def test_grafana_asks_for_metrics_that_exist(server: Server) -> None:
    server.complete()
    text = server.client.get("/metrics").text
    served = set(
        re.findall(r"^(?:# TYPE )?(nanopd_\w+)", text, re.MULTILINE)
    )  # a counter by label may have no series yet
    dashboard = json.loads(GRAFANA.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    asked = {name for query in queries for name in re.findall(r"nanopd_\w+", query)}
    assert len(asked) > 20
    assert asked <= served
