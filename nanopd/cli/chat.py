"""``nanopd chat``: a conversation in the terminal."""

import argparse
import asyncio
from typing import Any

from nanopd.cli.engine_options import add_engine_options, engine_options
from nanopd.cli.sampling_options import add_sampling_options, sampling_params
from nanopd.request import SamplingParams

_HELP = "/reset forgets the conversation, /report shows where the last answer's time went, /exit (or Ctrl-D) ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", default=None, metavar="TEXT", help="system message")
    add_sampling_options(parser, SamplingParams(max_tokens=512, temperature=0.7, top_p=0.9))
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    sampling = sampling_params(args)
    asyncio.run(_talk(engine_options(args), sampling, args.system))
    return 0


async def _talk(options: dict[str, Any], sampling: SamplingParams, system: str | None) -> None:
    from nanopd.llm import AsyncLLM

    opening = [{"role": "system", "content": system}] if system else []
    async with AsyncLLM(**options) as llm:
        print(f"{llm.controller.engine_config.model}. {_HELP}")
        messages = list(opening)
        report = None
        while (line := await _read_line()) is not None:
            match line.strip():
                case "":
                    continue
                case "/exit":
                    return
                case "/reset":
                    messages = list(opening)
                    continue
                case "/report":
                    _show(report)
                    continue
            messages.append({"role": "user", "content": line})
            answer = ""
            async for delta in llm.stream_chat(messages, sampling):
                answer += delta.text
                print(delta.text, end="", flush=True)
                report = delta.report or report
            print("\n")
            messages.append({"role": "assistant", "content": answer})


async def _read_line() -> str | None:
    """A line from the user; None at the end. On a thread, so that the workers' messages are read meanwhile."""
    try:
        return await asyncio.to_thread(input, "> ")
    except EOFError:
        print()
        return None


def _show(report: Any) -> None:
    from nanopd.cli.report_table import ReportRow, make_console, report_table

    if report is not None:
        make_console().print(report_table([ReportRow("last answer", report, "")]))
