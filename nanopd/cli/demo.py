"""``nanopd demo``: a dozen chats at once on collocated, prefill and decode workers, streamed live, then accounted for."""

import argparse
import asyncio
import textwrap
import time
from dataclasses import dataclass
from typing import Any

from nanopd.cli.engine_options import add_engine_options, engine_options
from nanopd.request import SamplingParams, Strategy

_STORY = "Once upon a time a lighthouse keeper found a bottle on the beach. In it was a letter, and in the letter was a map of an island. "
_PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three primary colours.",
    "Explain in two sentences why the sky is blue.",
    "Give me a rhyme about a cat.",
    "What is 12 times 12?",
    "List four things to take on a hike.",
    "Translate 'good morning' into Spanish.",
    "Why do leaves change colour in autumn?",
    f"Summarise in one sentence: {_STORY * 4}",
    f"Give this text a title: {_STORY * 8}",
    f"What did the keeper find? {_STORY * 12}",
)
_LIVE_CHARACTERS = 90  # of a growing answer: its end


@dataclass(slots=True)
class _Chat:
    """One request of the demo."""

    prompt: str
    answer: str = ""
    report: Any = None
    finish_reason: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens per answer (%(default)s)")
    add_engine_options(parser, workers="1C+1P+1D", strategy="adaptive", num_blocks=1024)


def run(args: argparse.Namespace) -> int:
    asyncio.run(_demo(engine_options(args), args.max_tokens))
    return 0


async def _demo(options: dict[str, Any], max_tokens: int) -> None:
    from nanopd.cli.report_table import ReportRow, make_console, report_table, summary_line
    from nanopd.llm import AsyncLLM

    console = make_console()
    console.print(
        f"Starting {options['workers']} workers (C collocated, P prefill, D decode), strategy {options['strategy']} ..."
    )
    started = time.monotonic()
    async with AsyncLLM(**options) as llm:
        console.print(f"Ready after {time.monotonic() - started:.1f} s. {len(_PROMPTS)} chats at once:\n")
        chats = [_Chat(prompt) for prompt in _PROMPTS]
        started = time.monotonic()
        running = [asyncio.create_task(_run(llm, chat, number, max_tokens)) for number, chat in enumerate(chats)]
        await _show_progress(console, chats, running)
        elapsed_s = time.monotonic() - started
    rows = [
        ReportRow(f"{number:2}  {chat.prompt}", chat.report, chat.finish_reason) for number, chat in enumerate(chats, 1)
    ]
    console.print(report_table(rows, console.width))
    console.print(summary_line(rows, elapsed_s))


async def _run(llm: Any, chat: _Chat, number: int, max_tokens: int) -> None:
    """Every fourth chat forces a way, so that both are seen whatever the router thinks of this machine."""
    from nanopd.runtime.generation import GenerationOptions

    forced = {0: Strategy.DISAGGREGATED, 1: Strategy.COLLOCATED}.get(number % 4)
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    async for delta in llm.stream_chat(
        [{"role": "user", "content": chat.prompt}], sampling, options=GenerationOptions(strategy=forced)
    ):
        chat.answer += delta.text
        if delta.finish_reason is not None:
            chat.report, chat.finish_reason = delta.report, delta.finish_reason


async def _show_progress(console: Any, chats: list[_Chat], running: "list[asyncio.Task[None]]") -> None:
    """On a terminal all answers grow at once; in a log each is printed when it is complete."""
    from rich.live import Live
    from rich.text import Text

    if console.is_terminal:
        with Live(console=console, refresh_per_second=8) as live:
            while not all(task.done() for task in running):
                live.update(_answers(chats))
                await asyncio.wait(running, timeout=0.125)
            live.update(_answers(chats))
        await asyncio.gather(*running)
        return
    numbers = {task: number for number, task in enumerate(running)}
    pending = set(running)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=numbers.__getitem__):
            task.result()
            number = numbers[task]
            console.print(Text(f"{number + 1:2}  {_short(chats[number].prompt)}", style="bold"))
            console.print(
                Text(textwrap.indent(textwrap.fill(_one_line(chats[number]), console.width - 8), "    ") + "\n")
            )


def _answers(chats: list[_Chat]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column(ratio=1, max_width=30, no_wrap=True, overflow="ellipsis", style="bold")
    table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
    for number, chat in enumerate(chats, 1):
        answer = _one_line(chat)
        table.add_row(
            str(number), Text(_short(chat.prompt)), Text(answer if chat.finish_reason else answer[-_LIVE_CHARACTERS:])
        )
    return table


def _one_line(chat: _Chat) -> str:
    """The answer as it stands, an ellipsis where max_tokens cut it."""
    return " ".join(chat.answer.split()) + (" ..." if chat.finish_reason == "length" else "")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
