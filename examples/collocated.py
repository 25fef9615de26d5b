"""One device: a model in this process, answers streamed as they are computed, and where the time went.

python examples/collocated.py                  # the embedded model; a GPU if there is one
python examples/collocated.py --model benchmarks/models/qwen3-8b --load-format dummy --device cuda    # random weights: speed only
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from nanopd.cluster.events import RequestReport
from nanopd.llm import AsyncLLM
from nanopd.metrics import RequestTimes
from nanopd.request import SamplingParams

QUESTIONS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "Why is the sky blue? Answer in two sentences.",
    "Write one sentence about the sea.",
)


@dataclass(slots=True)
class Answer:
    """One stream: its text, and when each of its tokens came (seconds)."""

    question: str
    asked: float
    text: str = ""
    token_times: list[float] = field(default_factory=list)
    report: RequestReport | None = None

    @property
    def times(self) -> RequestTimes:
        return RequestTimes(self.asked, tuple(self.token_times))


async def stream(llm: AsyncLLM, question: str, max_tokens: int, show: bool = False) -> Answer:
    """Asks, and notes what comes when."""
    answer = Answer(question, time.perf_counter())
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    async for delta in llm.stream_chat([{"role": "user", "content": question}], sampling):
        answer.token_times += [time.perf_counter()] * len(delta.token_ids)
        answer.text += delta.text
        answer.report = delta.report or answer.report
        if show:
            print(delta.text, end="", flush=True)
    return answer


async def run(args: argparse.Namespace) -> None:
    console = Console(highlight=False)
    options = {"model": args.model, "load_format": args.load_format, "device": args.device, "dtype": args.dtype}
    started = time.perf_counter()
    async with AsyncLLM(workers="1C", **options) as llm:  # one worker: a thread of this process
        console.print(f"{args.model} is ready after {time.perf_counter() - started:.1f} s\n\n> {QUESTIONS[0]}")
        alone = await stream(llm, QUESTIONS[0], args.max_tokens, show=True)
        console.print(f"\n\nAnd {len(QUESTIONS)} questions at once, batched step by step:\n")
        together = await asyncio.gather(*(stream(llm, question, args.max_tokens) for question in QUESTIONS))
    for answer in together:
        console.print(f"> {answer.question}\n{answer.text.strip()}\n", markup=False)
    console.print(timings([("alone", alone), *(("of four", answer) for answer in together)]))


def timings(answers: list[tuple[str, Answer]]) -> Table:
    table = Table("", "tokens in", "from cache", "tokens out", "prefill ms", "TTFT ms", "ms per token", title="Timings")
    for name, answer in answers:
        report, times = answer.report, answer.times
        assert report is not None and times.ttft is not None
        table.add_row(
            name,
            str(report.num_prompt_tokens),
            str(report.prefill.num_cached_tokens),
            str(report.num_output_tokens),
            f"{report.prefill.prefill_ms:.0f}",
            f"{times.ttft * 1e3:.0f}",
            "-" if times.tpot is None else f"{times.tpot * 1e3:.1f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="embedded name, folder or .gguf file")
    parser.add_argument("--load-format", default="auto", help="dummy: random weights from a config.json alone")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-tokens", type=int, default=48, help="of each answer (%(default)s)")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
