"""``nanopd generate``"""

import argparse
import time
from typing import TYPE_CHECKING

from nanopd.cli.engine_options import add_engine_options, engine_options
from nanopd.cli.sampling_options import add_sampling_options, sampling_params
from nanopd.cli.trace_option import add_trace_option, traced
from nanopd.errors import ConfigError
from nanopd.request import SamplingParams

if TYPE_CHECKING:
    from nanopd.llm import LLM, RequestOutput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times")
    parser.add_argument(
        "--chat", action="store_true", help="each prompt is a user's message, answered with the model's chat template"
    )
    parser.add_argument("--n", type=int, default=1, help="choices per prompt (%(default)s)")
    group = parser.add_argument_group("beam search, instead of sampling")
    group.add_argument(
        "--beam-width", type=int, metavar="N", help="beams, and continuations shown; of sampling only the bounds count"
    )
    group.add_argument(
        "--length-penalty", type=float, default=1.0, metavar="X", help="above 0 favours long ones (%(default)s)"
    )
    parser.add_argument("--show-report", action="store_true", help="a table of paths, reasons and times")
    add_trace_option(parser)
    add_sampling_options(parser, SamplingParams(max_tokens=64, temperature=0.0))
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    sampling = sampling_params(args)
    if args.beam_width is not None and args.n != 1:
        raise ConfigError(f"--n must be 1 with --beam-width, which says how many continuations there are, got {args.n}")
    from nanopd.cli.report_table import ReportRow, make_console, report_table, summary_line
    from nanopd.llm import LLM

    with traced(args.trace) as tracing, LLM(**engine_options(args), **tracing) as llm:
        started = time.monotonic()
        if args.beam_width is not None:
            outputs = _beam_search(llm, args)
        elif args.chat:
            conversations = [[{"role": "user", "content": prompt}] for prompt in args.prompt]
            outputs = llm.chat(conversations, sampling, n=args.n)
        else:
            outputs = llm.generate(args.prompt, sampling, n=args.n)
        elapsed_s = time.monotonic() - started
    console = make_console()
    rows = []
    for prompt, output in zip(args.prompt, outputs, strict=True):
        for choice in output.choices:
            score = "" if choice.score is None else f"[{choice.score:.3f}] "
            print(score + (choice.text if args.chat else prompt + choice.text), end="\n\n")
            if choice.report is not None and (choice.score is None or choice.index == 0):
                rows.append(ReportRow(prompt, choice.report, choice.finish_reason))
    if args.show_report:
        console.print(report_table(rows, console.width))
        console.print(summary_line(rows, elapsed_s))
    return 0


def _beam_search(llm: "LLM", args: argparse.Namespace) -> list["RequestOutput"]:
    def encode(prompt: str) -> list[int]:
        messages = [{"role": "user", "content": prompt}]
        return list(llm.tokenizer.encode_chat(messages) if args.chat else llm.tokenizer.encode(prompt))

    return llm.beam_search(
        [encode(prompt) for prompt in args.prompt],
        args.beam_width,
        args.max_tokens,
        length_penalty=args.length_penalty,
        ignore_eos=args.ignore_eos,
    )
