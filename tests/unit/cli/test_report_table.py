import io

import pytest
from rich.console import Console

from nanopd.cli.report_table import ReportRow, report_table, summary_line
from nanopd.cluster.events import RequestReport
from nanopd.messages import LegTimes
from nanopd.router.plan import Candidate, Decision

MOVED = RequestReport(
    Decision(Candidate("prefill-0", "decode-1"), "the [long] prompt would stall others", "p"),
    num_prompt_tokens=300,
    num_output_tokens=40,
    num_attempts=2,
    ttft_s=0.25,
    e2e_s=2.0,
    tpot_s=0.0447,
    prefill=LegTimes(queue_ms=10, prefill_ms=230),
    decode=LegTimes(queue_ms=5, decode_ms=1745),
    transfer_ms=3.25,
    transfer_bytes=3 << 20,
)
LOCAL = RequestReport(
    Decision(Candidate("collocated-0", "collocated-0"), "short", "p"),
    num_prompt_tokens=9,
    num_output_tokens=1,
    num_attempts=1,
    ttft_s=0.1,
    e2e_s=0.1,
    tpot_s=None,
    prefill=LegTimes(queue_ms=1, prefill_ms=99, decode_ms=7),
)
ROWS = [ReportRow("[b]ig", MOVED, "length"), ReportRow("small", LOCAL, "stop")]


def rendered(width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(report_table(ROWS, width))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_one_line_per_request_with_every_time() -> None:
    moved, local = (line.split() for line in rendered(200) if line.strip().startswith(("[b]ig", "small")))
    assert moved[:5] == ["[b]ig", "prefill-0", ">", "decode-1", "(2"]
    assert " ".join(moved[6:-8]) == "the [long] prompt would stall others"
    assert moved[-8:] == ["300", "40", "15", "230", "3.2", "1745", "250", "45"]
    assert local[-8:] == ["9", "1", "1", "99", "-", "7", "100", "-"]


@pytest.mark.parametrize("width", [100, 120, 150])
def test_fits_the_width_it_is_given_with_every_number_whole(width: int) -> None:
    lines = rendered(width)
    assert all(len(line) <= width for line in lines)
    ends = [line.split()[-8:] for line in lines if line.strip().startswith(("[b]ig", "small"))][-2:]
    assert ends == [["300", "40", "15", "230", "3.2", "1745", "250", "45"], ["9", "1", "1", "99", "-", "7", "100", "-"]]
    assert sum("the [long] prompt" in line for line in lines) == 1


def test_summary() -> None:
    assert (
        summary_line(ROWS, 2.0)
        == "2 requests (1 collocated, 1 disaggregated), 41 tokens in 2.0 s = 20 tokens/s; 3.0 MiB of KV handed over"
    )
