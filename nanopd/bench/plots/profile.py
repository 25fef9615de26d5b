"""Figures of a hardware profile: decode steps as the batch grows, a prompt chunk beside decodes, and what follows for a request."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanopd.bench.plots.pool import few
from nanopd.bench.plots.style import Looks, finish, log_axis, panels
from nanopd.cost_model import HardwareProfile, StepFeatures
from nanopd.cost_model.measurements import DecodePoint, InterferencePoint, Spread

_MAX_CURVES = 3
_OUTPUT_TOKENS = 128  # the original's cap
_CHUNK = 512  # prompt tokens of a sequence in one step, as the scheduler's default
_RUNNING = (1, 2, 4, 8, 16, 32, 64)


def decode_scaling(profile: HardwareProfile) -> Figure | None:
    """Decode steps by batch, a colour for each context: measured, fitted, and the bound that memory bandwidth sets."""
    points = profile.measurements.decode if profile.measurements is not None else ()
    contexts = few([str(context) for context in sorted({point.context for point in points})], _MAX_CURVES)
    if not contexts:
        return None
    looks = Looks(contexts)
    figure, axes = panels(2, width=1.25)
    for ax, name, is_per_token in zip(axes, ("a step", "a token"), (False, True), strict=True):
        for context in contexts:
            here = sorted((point for point in points if str(point.context) == context), key=lambda point: point.batch)
            _decode_curve(ax, looks, context, here, is_per_token, is_named=context == contexts[0])
        log_axis(ax.yaxis)
        _label(ax, "sequences in the batch", f"milliseconds {name} (log)")
    return finish(figure, origin_of_profile(profile), "Decode scaling: measured, fit, roofline", axes[0])


def _decode_curve(
    ax: Axes, looks: Looks, context: str, points: Sequence[DecodePoint], is_per_token: bool, is_named: bool
) -> None:
    batches = [point.batch for point in points]
    share = [1.0 / batch if is_per_token else 1.0 for batch in batches]
    colour = looks.colour(context)
    _marks(ax, looks, context, batches, [point.measured for point in points], share, f"context {context}")
    fit = [point.fit_ms * part for point, part in zip(points, share, strict=True)]
    ax.plot(batches, fit, color=colour, linewidth=1.2, label="fit" if is_named else None)
    roofline = [point.roofline_ms * part for point, part in zip(points, share, strict=True)]
    ax.plot(batches, roofline, color=colour, linewidth=1.0, linestyle=":", label="roofline" if is_named else None)


def interference(profile: HardwareProfile) -> Figure | None:
    """What ``n`` prompt tokens add to a step of running decodes, against what moving their KV to another worker takes."""
    points = profile.measurements.interference if profile.measurements is not None else ()
    if len({point.num_tokens for point in points}) < 2:
        return None
    batches = few([str(batch) for batch in sorted({point.batch for point in points})], _MAX_CURVES)
    looks = Looks([*batches, "transfer"])
    figure, axes = panels(1, width=2.0)
    ax = axes[0]
    for batch in batches:
        here = _by_tokens(point for point in points if str(point.batch) == batch)
        tokens = [point.num_tokens for point in here]
        added = [_minus(point.measured, point.decode_ms) for point in here]
        _marks(ax, looks, batch, tokens, added, [1.0] * len(here), f"added to {batch} decodes")
        fit = [max(0.0, point.fit_ms - point.decode_ms) for point in here]
        name = "fit" if batch == batches[0] else None
        ax.plot(tokens, fit, color=looks.colour(batch), linestyle=looks.line(batch), label=name)
    moved = _by_tokens({point.num_tokens: point for point in points}.values())
    ax.plot(
        [point.num_tokens for point in moved],
        [point.transfer_ms for point in moved],
        color=looks.colour("transfer"),
        linestyle=looks.line("transfer"),
        marker=looks.marker("transfer"),
        markersize=4,
        label="moving their KV",
    )
    log_axis(ax.yaxis)
    _label(ax, "prompt tokens", "milliseconds (log)")
    return finish(figure, origin_of_profile(profile), "Transfer against interference: measured, fit", ax)


def latency_comparison(profile: HardwareProfile) -> Figure | None:
    """A request's predicted latency on two workers, both ways, as more requests run; and the longest gap its prompt makes in the others' streams."""
    prompts = [length for length in (256, 1024, 4096) if length + _OUTPUT_TOKENS <= profile.max_model_len][:2]
    if not prompts:
        return None
    looks = Looks(["collocated", "disaggregated"])
    figure, axes = panels(2, width=1.25)
    measures: tuple[Callable[[HardwareProfile, int, int, bool], float], ...] = (_request_ms, _longest_gap_ms)
    titles = ("latency of the request, milliseconds", "longest gap of the others, milliseconds")
    for ax, measure, title in zip(axes, measures, titles, strict=True):
        for prompt, style in zip(prompts, ("-", "--"), strict=False):
            for path in ("collocated", "disaggregated"):
                values = [measure(profile, prompt, running, path == "disaggregated") for running in _RUNNING]
                ax.plot(
                    _RUNNING,
                    values,
                    linestyle=style,
                    color=looks.colour(path),
                    marker=looks.marker(path),
                    markersize=4,
                    label=f"{path}, prompt {prompt}",
                )
        ax.set_ylim(bottom=0.0)
        _label(ax, "other requests running on the two workers", title)
    title = f"Latency comparison, predicted ({_OUTPUT_TOKENS} output tokens)"
    return finish(figure, origin_of_profile(profile), title, axes[0])


def origin_of_profile(profile: HardwareProfile) -> str:
    """The line under a figure of a profile."""
    return f"{profile.hardware}; {profile.model}, {profile.dtype}; {profile.date}, commit {profile.commit or 'unknown'}"


def _marks(
    ax: Axes,
    looks: Looks,
    name: str,
    x: Sequence[int],
    spreads: Sequence[Spread],
    share: Sequence[float],
    label: str,
) -> None:
    """Medians with their 10th to 90th percentile."""
    median = [spread.ms * part for spread, part in zip(spreads, share, strict=True)]
    below = [max(0.0, (spread.ms - spread.low_ms) * part) for spread, part in zip(spreads, share, strict=True)]
    above = [max(0.0, (spread.high_ms - spread.ms) * part) for spread, part in zip(spreads, share, strict=True)]
    ax.errorbar(
        x,
        median,
        (below, above),
        color=looks.colour(name),
        marker=looks.marker(name),
        markersize=4,
        linestyle="none",
        elinewidth=0.8,
        label=label,
    )


def _minus(spread: Spread, ms: float) -> Spread:
    """What a step took beyond ``ms``; never below a microsecond, for the logarithm."""
    return Spread(*(max(1e-3, value - ms) for value in (spread.ms, spread.low_ms, spread.high_ms)))


def _by_tokens(points: Iterable[InterferencePoint]) -> list[InterferencePoint]:
    return sorted(points, key=lambda point: point.num_tokens)


def _chunks(prompt: int) -> Iterator[StepFeatures]:
    for start in range(0, prompt, _CHUNK):
        yield StepFeatures.of_prefill(min(_CHUNK, prompt - start), start)


def _beside(running: int, is_disaggregated: bool) -> StepFeatures:
    """The decodes in the prefilling worker's steps: half of those that run, or none where a worker only prefills."""
    return StepFeatures() if is_disaggregated else StepFeatures.of_decode(-(-running // 2), _CHUNK)


def _request_ms(profile: HardwareProfile, prompt: int, running: int, is_disaggregated: bool) -> float:
    beside = _beside(running, is_disaggregated)
    prefill = sum(profile.step.predict_ms(chunk + beside) for chunk in _chunks(prompt))
    transfer = profile.transfer.transfer_ms(prompt * profile.kv_bytes_per_token) if is_disaggregated else 0.0
    batch = 1 + (running if is_disaggregated else -(-running // 2))
    return prefill + transfer + _OUTPUT_TOKENS * profile.step.predict_ms(StepFeatures.of_decode(batch, prompt))


def _longest_gap_ms(profile: HardwareProfile, prompt: int, running: int, is_disaggregated: bool) -> float:
    if is_disaggregated:
        return profile.step.predict_ms(StepFeatures.of_decode(running, _CHUNK))
    beside = _beside(running, is_disaggregated)
    return max(profile.step.predict_ms(chunk + beside) for chunk in _chunks(prompt))


def _label(ax: Axes, x: str, y: str) -> None:
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
