"""``nanopd chat``: a conversation in the terminal."""

import argparse
import contextlib
from typing import Any

from nanopd.cli.engine_options import add_engine_options, engine_options
from nanopd.cli.sampling_options import add_sampling_options, sampling_params
from nanopd.request import SamplingParams

_HELP = "/reset forgets the conversation, /report shows where the last answer's time went, Ctrl-C stops an answer, /exit or Ctrl-D ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", default=None, metavar="TEXT", help="system message")
    add_sampling_options(parser, SamplingParams(max_tokens=512, temperature=0.7, top_p=0.9))
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    sampling = sampling_params(args)
    from nanopd.llm import LLM

    opening = [{"role": "system", "content": args.system}] if args.system else []
    with LLM(**engine_options(args)) as llm:
        print(_HELP)
        messages, report = list(opening), None
        while (line := _read_line()) != "/exit":
            if line == "/reset":
                messages = list(opening)
            elif line == "/report":
                _show(report)
            elif line:
                messages.append({"role": "user", "content": line})
                answer, report = _answer(llm, messages, sampling)
                messages.append({"role": "assistant", "content": answer})
    return 0


def _read_line() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        print()
        return "/exit"


def _answer(llm: Any, messages: list[dict[str, str]], sampling: SamplingParams) -> tuple[str, Any]:
    """Prints the answer as it comes; returns it with its report. Ctrl-C keeps what there is."""
    answer, report = "", None
    deltas = llm.stream_chat(messages, sampling)
    with contextlib.closing(deltas), contextlib.suppress(KeyboardInterrupt):
        for delta in deltas:
            answer += delta.text
            print(delta.text, end="", flush=True)
            report = delta.report
    print("\n")
    return answer, report


def _show(report: Any) -> None:
    from nanopd.cli.report_table import ReportRow, make_console, report_table

    if report is not None:
        console = make_console()
        console.print(report_table([ReportRow("last answer", report, "")], console.width))
