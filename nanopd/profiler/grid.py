"""Which steps are measured: prefill over (new, cached) tokens, decode over (batch, context), both in one step. Pure."""

from dataclasses import dataclass

from nanopd.cost_model import StepFeatures

_RAGGED = 2.5  # longest and shortest context of a step, over their geometric mean


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of step: ``prefills`` are (new tokens, cached tokens), ``decodes`` contexts with the token that is fed."""

    prefills: tuple[tuple[int, int], ...] = ()
    decodes: tuple[int, ...] = ()

    @property
    def features(self) -> StepFeatures:
        total = StepFeatures()
        for num_new, num_cached in self.prefills:
            total = total + StepFeatures.of_prefill(num_new, num_cached)
        return total + StepFeatures(0, 0.0, 0, len(self.decodes), sum(self.decodes))

    @property
    def contexts(self) -> tuple[int, ...]:
        """Context length of each sequence after the step, decodes first."""
        return (*self.decodes, *(num_new + num_cached for num_new, num_cached in self.prefills))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may hold on this device."""

    max_model_len: int
    max_step_tokens: int
    max_num_seqs: int
    pool_tokens: int  # of KV that the measuring pool holds


@dataclass(frozen=True, slots=True)
class Axes:
    """The values that are combined; what exceeds the limits is left out."""

    new: tuple[int, ...]
    cached: tuple[int, ...]  # combined with ``new``; ``long`` goes with every other of them, ``fine`` with none
    batch: tuple[int, ...]
    context: tuple[int, ...]
    mixed_new: tuple[int, ...]
    mixed_batch: tuple[int, ...]
    long: tuple[int, ...] = ()
    fine: tuple[
        int, ...
    ] = ()  # prompts where the time jumps: at graphs' token counts, past multiples of a matrix product's tile


CPU = Axes(
    (16, 48, 128, 256, 512), (0, 512), (1, 2, 3, 4, 6, 8, 12, 16, 24, 32), (64, 320, 900), (32, 128, 256), (2, 8, 24)
)
CPU_QUICK = Axes((32, 96, 256), (0, 512), (1, 2, 4, 16), (64, 512), (32, 128), (4, 16))
GPU = Axes(
    (16, 64, 128, 256, 512, 1024, 2048),
    (0, 2048, 8192, 24_576),
    (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256),
    (128, 1024, 4096, 16_384),
    (64, 256, 512, 2048),
    (4, 32, 128, 224),
    long=(4096,),
    fine=(
        *(8, 32, 48, 96, 192, 384, 528, 640, 768, 784, 896, 1040, 1152, 1280, 1408, 1536, 1552, 1664, 1792, 1920),
        *(2064, 2304, 3072),
    ),
)
GPU_QUICK = Axes((64, 512, 2048), (0, 8192), (1, 8, 64, 256), (256, 2048), (512,), (16, 128))


def cases(axes: Axes, limits: Limits) -> list[Case]:
    """Every combination that fits."""
    drawn = [Case(((new, cached),)) for new in axes.new for cached in axes.cached]
    drawn += [Case(((new, cached),)) for new in axes.long for cached in axes.cached[::2]]
    drawn += [Case(((new, 0),)) for new in axes.fine]
    drawn += [Case(((new // 4, 0),) * 4) for new in axes.new[2::2]]  # several prompts in one step
    drawn += [Case((), ragged(batch, context)) for batch in axes.batch for context in axes.context]
    # Mixed steps at one context of each stage: attention is additive, what is to be seen is how the linear layers are shared.
    decode_context = axes.context[min(1, len(axes.context) - 1)]
    for new in axes.mixed_new:
        drawn += [Case(((new, axes.cached[0]),), ragged(batch, decode_context)) for batch in axes.mixed_batch]
    return [case for case in drawn if fits(case, limits)]


def ragged(batch: int, context: int) -> tuple[int, ...]:
    """Contexts about ``context`` on average, log-spaced over a factor of six: a server's sequences are never of one length, and attention that
    pads or splits them costs more than equal ones would."""
    spread = [_RAGGED ** (2.0 * (i + 0.5) / batch - 1.0) for i in range(batch)]
    scale = context * batch / sum(spread)
    return tuple(max(2, round(share * scale)) for share in spread)


def fits(case: Case, limits: Limits) -> bool:
    """Whether the device can run the step."""
    contexts = case.contexts
    return (
        max(contexts) <= limits.max_model_len
        and sum(contexts) + 16 * len(contexts) <= limits.pool_tokens
        and case.features.num_tokens <= limits.max_step_tokens
        and len(contexts) <= limits.max_num_seqs
    )
