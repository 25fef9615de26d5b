"""How long a step takes.

::

    step = tokens(T + B) + decodes(B) + prefill [T > 0] + per_prefill P + attention A + context C

    T prompt tokens, P prompt chunks, A their sum(q k); B decodes, C the sum of their contexts

``tokens`` is what all tokens of a step share: the linear layers and the launches. As a table that never falls it *is* the roofline's max: flat while
the weights' bytes bound it, a straight line once the flops do. ``decodes`` is what a sampled row costs on top. Attention reads what it reads: a
prompt chunk q k products, a decode its context's bytes.

A decode-only step runs as a CUDA graph of the next size of ``ladder`` where there is one, and costs what that size costs. So do the linear layers of
a step with prompts, by ``prompt_ladder``.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

import msgspec

from nanopd.cost_model.features import StepFeatures
from nanopd.errors import ConfigError

QUANTILE_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_DENSE_TOKENS = 4096  # above, the table itself is asked
_DENSE_DECODES = 1024


class Table(msgspec.Struct, frozen=True):
    """A piecewise linear function of a count: ``ms[i]`` at ``counts[i]``; its last slope goes on above, its first value holds below."""

    counts: tuple[int, ...]
    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.counts or len(self.counts) != len(self.ms):
            raise ConfigError(f"a table needs as many times as counts, got {len(self.ms)} for {len(self.counts)}")
        if any(b <= a for a, b in zip(self.counts, self.counts[1:], strict=False)):
            raise ConfigError(f"a table's counts must rise, got {self.counts}")

    def at(self, count: float) -> float:
        counts, ms = self.counts, self.ms
        if count <= counts[0] or len(counts) == 1:
            return ms[0]
        i = min(bisect_left(counts, count), len(counts) - 1)
        slope = (ms[i] - ms[i - 1]) / (counts[i] - counts[i - 1])
        return ms[i - 1] + slope * (count - counts[i - 1])


class StepTerms(msgspec.Struct, frozen=True):
    """The numbers of a ``StepModel``, as a profile stores them; milliseconds."""

    tokens: Table
    decodes: Table
    prefill_ms: float = 0.0
    per_prefill_ms: float = 0.0
    attention_ms: float = 0.0  # per query token and key
    context_ms: float = 0.0  # per token of KV that a decode reads
    ladder: tuple[int, ...] = ()  # sizes of the decode graphs; empty: none
    prompt_ladder: tuple[int, ...] = ()  # token counts of the graphs of steps with prompts
    launch_ms: float = 0.0  # of the host, for a step with prompts: it takes no less
    burst_ms: float = 0.0  # of prompts in a row that a cool device computes at this pace; 0: for ever
    sustained_ratio: float = 1.0  # then such steps take so many times as long: the power limit lowers the clocks
    ratio_quantiles: dict[str, tuple[float, ...]] = {}  # kind of step -> measured / predicted at QUANTILE_LEVELS

    def __post_init__(self) -> None:
        for kind, ratios in self.ratio_quantiles.items():
            if len(ratios) != len(QUANTILE_LEVELS):
                raise ConfigError(
                    f"ratio_quantiles[{kind!r}] must hold {len(QUANTILE_LEVELS)} values, got {len(ratios)}"
                )


class StepPredictor(Protocol):
    """Whatever says how long a step takes."""

    def predict_ms(self, f: StepFeatures) -> float:
        """The median time of a step, milliseconds."""
        ...


class StepModel:
    """Predicts steps from ``StepTerms``. A prediction takes well under 2 microseconds: the tables are spread out at construction."""

    __slots__ = (
        "terms", "_attention", "_context", "_decodes", "_launch", "_per_prefill", "_pure", "_tokens",
    )  # fmt: skip

    def __init__(self, terms: StepTerms) -> None:
        self.terms = terms
        dense = _spread(terms.tokens, _DENSE_TOKENS)
        padded = _padded_counts(terms.prompt_ladder, _DENSE_TOKENS)
        self._tokens = [terms.prefill_ms + dense[count] for count in padded]
        self._decodes = _spread(terms.decodes, _DENSE_DECODES)
        self._decodes[0] = 0.0
        self._pure = [0.0, *(self._decode_only(size) for size in range(1, _DENSE_DECODES + 1))]
        self._attention, self._context, self._per_prefill = terms.attention_ms, terms.context_ms, terms.per_prefill_ms
        self._launch = terms.launch_ms

    def predict_ms(self, f: StepFeatures) -> float:
        """The median time of a step, milliseconds; 0 for an empty one."""
        ms = self.device_ms(f)
        return self._launch if ms < self._launch and f.num_prefill_tokens else ms

    def launch_ms(self, f: StepFeatures) -> float:
        """How long the host is busy launching a step, where that is more than one graph's launch."""
        return self._launch if f.num_prefill_tokens else 0.0

    def device_ms(self, f: StepFeatures) -> float:
        """How long a step keeps the device busy when the host is ahead of it."""
        num_prefill_tokens, num_decodes = f.num_prefill_tokens, f.num_decodes
        if num_prefill_tokens == 0:
            if num_decodes > _DENSE_DECODES:
                return self._decode_only(num_decodes) + self._context * f.decode_context
            return self._pure[num_decodes] + self._context * f.decode_context
        num_tokens = num_prefill_tokens + num_decodes
        if num_tokens > _DENSE_TOKENS:
            ms = self.terms.prefill_ms + self.terms.tokens.at(num_tokens)
        else:
            ms = self._tokens[num_tokens]
        ms += self._per_prefill * f.num_prefills + self._attention * f.prefill_attention
        if num_decodes:
            dense = num_decodes <= _DENSE_DECODES
            ms += self._context * f.decode_context
            ms += self._decodes[num_decodes] if dense else self.terms.decodes.at(num_decodes)
        return ms

    def quantile_ms(self, f: StepFeatures, q: float) -> float:
        """The time that a share ``q`` of such steps does not exceed."""
        ratios = self.terms.ratio_quantiles.get(f.kind)
        return self.predict_ms(f) * (interpolate(QUANTILE_LEVELS, ratios, q) if ratios else 1.0)

    def parts_ms(self, f: StepFeatures) -> tuple[float, float, float, float]:
        """The prediction in four parts: what tokens cost in a step without prompts, or in one with prompts (other kernels, and a hotter device);
        prompt attention; the decodes' reading of their context."""
        attention, context = self._attention * f.prefill_attention, self._context * f.decode_context
        tokens = self.predict_ms(f) - attention - context
        return (0.0, tokens, attention, context) if f.num_prefill_tokens else (tokens, 0.0, 0.0, context)

    def _decode_only(self, num_decodes: int) -> float:
        padded = padded_count(self.terms.ladder, num_decodes)
        return self.terms.tokens.at(padded) + self.terms.decodes.at(padded)


def padded_count(ladder: Sequence[int], count: int) -> int:
    """The graph's size that ``count`` runs as: the next of the ladder, or itself beyond."""
    return ladder[bisect_left(ladder, count)] if ladder and count <= ladder[-1] else count


def interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Linear between the points, constant outside."""
    if x <= xs[0]:
        return ys[0]
    if x >= xs[-1]:
        return ys[-1]
    i = bisect_left(xs, x)
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


def _padded_counts(ladder: Sequence[int], last: int) -> list[int]:
    """For each of 0, 1, ..., ``last``."""
    return [min(padded_count(ladder, count), last) if count else 0 for count in range(last + 1)]


def _spread(table: Table, last: int) -> list[float]:
    """The table at 0, 1, ..., ``last``."""
    values = [table.ms[0]] * (min(table.counts[0], last) + 1)
    for i in range(1, len(table.counts)):
        low, high = table.counts[i - 1], table.counts[i]
        slope = (table.ms[i] - table.ms[i - 1]) / (high - low)
        values += [table.ms[i - 1] + slope * step for step in range(1, min(high, last) - low + 1)]
    while len(values) <= last:
        values.append(table.at(len(values)))
    return values
