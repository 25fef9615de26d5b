"""``nanopd profile``: measures this machine and writes what the router and the simulator need to know about it."""

import argparse
import subprocess
from pathlib import Path
from typing import Any

_TEXT_OPTIONS = ("model", "dtype", "device", "load_format")
_COUNT_OPTIONS = ("num_threads", "max_model_len", "block_size", "num_blocks", "max_num_batched_tokens", "max_num_seqs")
_BUDGET_S, _QUICK_BUDGET_S = 75.0, 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("profile.json"), help="where the profile goes (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a smaller grid, under half a minute")
    parser.add_argument(
        "--budget", type=float, help=f"seconds for the steps ({_BUDGET_S:.0f}; quick: {_QUICK_BUDGET_S:.0f})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of measurements")
    for name in (*_TEXT_OPTIONS, *_COUNT_OPTIONS):
        kind = str if name in _TEXT_OPTIONS else int
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, type=kind, default=argparse.SUPPRESS, help="as of nanopd serve"
        )


def run(args: argparse.Namespace) -> int:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from nanopd.cli.report_table import make_console
    from nanopd.config.options import build_configs
    from nanopd.profiler import profile_device

    config, _cluster = build_configs(
        {name: getattr(args, name) for name in (*_TEXT_OPTIONS, *_COUNT_OPTIONS) if hasattr(args, name)}
    )
    console = make_console()
    budget_s = args.budget or (_QUICK_BUDGET_S if args.quick else _BUDGET_S)
    with Progress(TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("", total=1.0)
        measured = profile_device(
            config,
            budget_s=budget_s,
            quick=args.quick,
            seed=args.seed,
            commit=_commit(),
            progress=lambda what, share: bar.update(task, description=what, completed=share),
        )
    measured.profile.save(args.out)
    _show(console, measured)
    console.print(f"Written to {args.out}")
    return 0


def _show(console: Any, measured: Any) -> None:
    """The profile in a screen: how good the fit is, what things cost, the original's five parameters."""
    profile, errors = measured.profile, measured.profile.held_out_errors
    console.print(
        f"{profile.hardware}; {profile.model}, {profile.dtype}; {measured.num_rounds} rounds, {measured.seconds:.0f} s"
    )
    by_kind = ", ".join(f"{kind} {errors[kind]:.1%}" for kind in ("prefill", "decode", "mixed") if kind in errors)
    console.print(
        f"Held-out step time, median error {errors['all']:.1%} ({by_kind}); spread of one step's repetitions {measured.spread:.0%}"
    )
    if measured.share < 0.9:
        console.print(
            f"Other programs took {1 - measured.share:.0%} of the time; step times are net of that, the transfer's are not"
        )
    if launch_ms := profile.step.terms.launch_ms:
        console.print(
            f"A step without a graph takes the host {launch_ms:.1f} ms to launch; shorter ones take that long"
        )
    transfer = profile.transfer
    console.print(
        f"Transfer ({measured.transport}): {transfer.latency_ms:.3f} ms + bytes / {transfer.bandwidth_gb_s:.2f} GB/s; "
        f"host {profile.host_overhead_ms:.3f} ms a step"
    )
    console.print(_steps_table(profile))
    console.print(_parameters_table(profile))


def _steps_table(profile: Any) -> Any:
    from rich.table import Table

    from nanopd.cost_model import StepFeatures

    table = Table("step", "10 %", "median ms", "90 %", box=None, title="What steps cost", title_justify="left")
    rows = {
        "decode, 1 at context 512": StepFeatures.of_decode(1, 512),
        "decode, 16 at context 512": StepFeatures.of_decode(16, 512),
        "prefill, 128 tokens": StepFeatures.of_prefill(128),
        "prefill, 512 tokens": StepFeatures.of_prefill(512),
        "512 tokens beside 16 decodes": StepFeatures.of_prefill(512) + StepFeatures.of_decode(16, 512),
    }
    for name, features in rows.items():
        low, high = (profile.step.quantile_ms(features, q) for q in (0.1, 0.9))
        table.add_row(name, f"{low:.2f}", f"{profile.step.predict_ms(features):.2f}", f"{high:.2f}")
    return table


def _parameters_table(profile: Any) -> Any:
    from rich.table import Table

    from nanopd.cost_model import original_parameters
    from nanopd.cost_model.derive import prefill_intercept_ms
    from nanopd.cost_model.original import H20, RTX_4090

    columns = (original_parameters(profile), RTX_4090, H20)
    table = Table("the original's parameters", "here", "RTX 4090 x8", "H20", box=None)
    table.add_row("alpha, ms per prompt token", *(f"{p.alpha_ms:.5f}" for p in columns))
    table.add_row("  intercept, ms", f"{prefill_intercept_ms(profile):.3f}", "-", "-")
    table.add_row("beta, ms per decode step", *(f"{p.beta_ms:.3f}" for p in columns))
    table.add_row("batch_thresh", *(str(p.batch_thresh) for p in columns))
    table.add_row("gamma, ms per prefilled token", *(f"{p.gamma_ms:.5f}" for p in columns))
    table.add_row("bandwidth, GB/s", *(f"{p.bandwidth_gb_s:.2f}" for p in columns))
    table.add_row("KV bytes per token", *(str(p.bytes_per_token) for p in columns))
    table.add_row("crossover load", *(f"{p.crossover_load:.2f}" for p in columns))
    return table


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
