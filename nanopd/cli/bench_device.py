"""``nanopd bench transfer`` and ``nanopd bench kernels``: parts of the engine by themselves, on this machine's devices."""

import argparse
import sys
from datetime import datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from nanopd.errors import ConfigError

KERNEL_TABLE = Path(__file__).parents[2] / "benchmarks" / "kernels" / "table.py"


def add_device_kinds(kinds: Any) -> None:
    text = "KV blocks between two processes, by size"
    transfer = kinds.add_parser("transfer", help=text, description=text, allow_abbrev=False)
    transfer.add_argument("--devices", default="cpu,cpu", help="from,to: cpu,cpu or cuda:0,cuda:1 (%(default)s)")
    transfer.add_argument("--transport", default="auto", help="as of nanopd serve (%(default)s)")
    transfer.add_argument("--model", default="smollm2-135m-instruct", help="whose KV (%(default)s)")
    transfer.add_argument("--block-size", type=int, default=16, help="tokens (%(default)s)")
    transfer.add_argument(
        "--num-blocks", type=int, default=512, help="of each pool; sizes go to half of it (%(default)s)"
    )
    transfer.add_argument("--num-rounds", type=int, default=15, help="(%(default)s)")
    transfer.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    add_out(transfer)
    transfer.set_defaults(handler=_transfer)
    text = "every CUDA kernel at the shapes of Qwen3-8B; needs a GPU and the source tree"
    kernels = kinds.add_parser("kernels", help=text, description=text, allow_abbrev=False)
    add_out(kernels)
    kernels.set_defaults(handler=_kernels)


def add_out(parser: Any) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="NAME",
        help="writes NAME.json and NAME.md (default: bench-results/KIND_TIME)",
    )


def record_base(args: argparse.Namespace) -> Path:
    """Where the record goes, without its suffixes."""
    out: Path | None = args.out
    return out or Path("bench-results") / f"{args.bench_command}_{datetime.now():%Y-%m-%d_%H%M%S}"


def _transfer(args: argparse.Namespace) -> int:
    from rich.markdown import Markdown

    from nanopd.bench.environment import describe_environment
    from nanopd.bench.record import check_free
    from nanopd.bench.transfer_record import TransferRecord, points_of, transfer_markdown, write_transfer
    from nanopd.cli.report_table import make_console
    from nanopd.profiler.transfer_rates import TransferRates
    from nanopd.weights import load_config, resolve_model

    base = record_base(args)
    check_free(base)
    match [word.strip() for word in args.devices.split(",")]:
        case [source, target]:
            devices = (source, target)
        case _:
            raise ConfigError(f"--devices must be two, from and to, got {args.devices!r}")
    environment, model = describe_environment(), load_config(resolve_model(args.model))
    with TransferRates(model, args.block_size, args.num_blocks, devices, args.transport, args.seed) as rates:
        series = {name: points_of(times, rates.block_bytes) for name, times in rates.measure(args.num_rounds).items()}
    record = TransferRecord(environment, args.model, args.block_size, devices, args.seed, series)
    paths = write_transfer(base, record)
    make_console().print(Markdown(transfer_markdown(record)))
    print(f"written: {', '.join(str(path) for path in paths)}")
    return 0


def _kernels(args: argparse.Namespace) -> int:
    """The measurement itself stands beside the other kernel benchmarks, which are no part of the installed package."""
    import msgspec

    from nanopd.bench.environment import describe_environment
    from nanopd.bench.record import check_free, write_pair
    from nanopd.runtime.devices import num_gpus

    if not num_gpus():
        raise ConfigError("kernels are measured on an NVIDIA GPU, and this machine has none")
    if not KERNEL_TABLE.exists():
        raise ConfigError(f"kernels are measured from a source tree: there is no {KERNEL_TABLE}")
    base = record_base(args)
    check_free(base)
    environment, table = describe_environment(), _module(KERNEL_TABLE)
    rows = table.measure()
    origin = f"{', '.join(environment.gpus)}; commit {environment.commit or 'unknown'}; `{environment.command}`"
    text = f"# nanopd bench kernels, {environment.date[:10]}\n\n{origin}\n\n{table.markdown(rows)}\n"
    record = {"format": "nanopd-kernels/1", "environment": environment, "rows": rows}
    paths = write_pair(base, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n", text)
    print(text)
    print(f"written: {', '.join(str(path) for path in paths)}")
    return 0


def _module(path: Path) -> Any:
    """A file of Python, imported from where it lies."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
