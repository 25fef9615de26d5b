"""``nanopd generate``"""

import argparse
import time

from nanopd.cli.engine_options import add_engine_options, engine_options
from nanopd.cli.sampling_options import add_sampling_options, sampling_params
from nanopd.request import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times")
    parser.add_argument(
        "--chat", action="store_true", help="each prompt is a user's message, answered with the model's chat template"
    )
    parser.add_argument("--n", type=int, default=1, help="choices per prompt (%(default)s)")
    parser.add_argument("--show-report", action="store_true", help="a table of paths, reasons and times")
    add_sampling_options(parser, SamplingParams(max_tokens=64, temperature=0.0))
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    sampling = sampling_params(args)
    from nanopd.cli.report_table import ReportRow, make_console, report_table, summary_line
    from nanopd.llm import LLM

    with LLM(**engine_options(args)) as llm:
        started = time.monotonic()
        if args.chat:
            conversations = [[{"role": "user", "content": prompt}] for prompt in args.prompt]
            outputs = llm.chat(conversations, sampling, n=args.n)
        else:
            outputs = llm.generate(args.prompt, sampling, n=args.n)
        elapsed_s = time.monotonic() - started
    console = make_console()
    rows = []
    for prompt, output in zip(args.prompt, outputs, strict=True):
        for choice in output.choices:
            print(choice.text if args.chat else prompt + choice.text, end="\n\n")
            if choice.report is not None:
                rows.append(ReportRow(prompt, choice.report, choice.finish_reason))
    if args.show_report:
        console.print(report_table(rows, console.width))
        console.print(summary_line(rows, elapsed_s))
    return 0
