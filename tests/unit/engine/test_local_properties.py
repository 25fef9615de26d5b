"""Whatever the batching, caching, chunking, preemption, pipelining and drafting: each request gets the sequential model's tokens, and all blocks
come back."""

from dataclasses import dataclass

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.knowing_drafter import KnowingDrafter
from support.scripted_oracle import VOCAB_SIZE, prompt_logprobs, sequential, sequential_logprobs

from nanopd.block_manager import BlockManager
from nanopd.clock import VirtualClock
from nanopd.config import SchedulerConfig
from nanopd.engine import Engine
from nanopd.engine.scripted import ScriptedExecutor
from nanopd.request import Request, SamplingParams
from nanopd.scheduler import Scheduler

MAX_MODEL_LEN = 60
STEP_LIMIT = 4000


@dataclass(frozen=True)
class Setup:
    block_size: int
    num_blocks: int
    chunk_size: int | None
    batch_tokens: int
    max_seqs: int
    prefix_cache: bool
    depth: int
    watermark: float
    num_draft_tokens: int = 0  # 0: no drafter; else the depth is 1


@dataclass(frozen=True)
class Arrival:
    """One request of the load: when it comes (engine step), and when its client goes away, if it does."""

    step: int
    prompt: tuple[int, ...]
    params: SamplingParams
    priority: int
    eos: tuple[int, ...]
    num_initial: int
    abort_after: int | None


def setups() -> st.SearchStrategy[Setup]:
    return st.builds(
        Setup,
        block_size=st.sampled_from([1, 2, 4, 8]),
        num_blocks=st.integers(6, 40),
        chunk_size=st.sampled_from([None, 1, 2, 3, 7, 16]),
        batch_tokens=st.sampled_from([1, 2, 5, 16, 64]),
        max_seqs=st.integers(1, 6),
        prefix_cache=st.booleans(),
        depth=st.integers(1, 3),
        watermark=st.sampled_from([0.0, 0.1, 0.3]),
        num_draft_tokens=st.sampled_from([0, 0, 1, 2, 5]),
    )


def prompts() -> st.SearchStrategy[tuple[int, ...]]:
    """Few distinct tokens and long common runs, so that prefixes are shared."""
    return st.builds(
        lambda n, tail: (7,) * n + tuple(tail), st.integers(0, 20), st.lists(st.integers(0, 2), min_size=1, max_size=10)
    )


def params() -> st.SearchStrategy[SamplingParams]:
    return st.builds(
        lambda max_tokens, min_share, temperature, seed, presence, stop, logprobs, of_prompt: SamplingParams(
            max_tokens=max_tokens,
            min_tokens=int(max_tokens * min_share),
            temperature=temperature,
            seed=seed,
            presence_penalty=presence,
            stop_token_ids=tuple(stop),
            logprobs=logprobs,
            prompt_logprobs=of_prompt,
        ),
        st.integers(1, 24),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([0.0, 1.0]),
        st.integers(0, 2**64 - 1),
        st.sampled_from([0.0, 0.0, 1.0]),
        st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=12),
        st.sampled_from([None, 0]),
        st.sampled_from([None, None, 0]),
    )


def arrivals() -> st.SearchStrategy[Arrival]:
    return st.builds(
        Arrival,
        step=st.integers(0, 30),
        prompt=prompts(),
        params=params(),
        priority=st.integers(0, 1),
        eos=st.sampled_from([(), (3,)]),
        num_initial=st.integers(0, 3),
        abort_after=st.one_of(st.none(), st.none(), st.integers(0, 30)),
    )


class Client:
    """Watches one sequence's outputs."""

    def __init__(self, seq_id: str, arrival: Arrival) -> None:
        self.seq_id = seq_id
        self.arrival = arrival
        self.request = Request(
            seq_id, arrival.prompt, arrival.params, priority=arrival.priority, eos_token_ids=arrival.eos
        )
        self.expected, self.expected_reason = sequential(self.request, MAX_MODEL_LEN)
        self.initial = self.expected[: min(arrival.num_initial, len(self.expected) - 1)]
        self.tokens = list(self.initial)
        self.logprobs: list = []
        self.prompt_logprobs = None
        self.ends: list[str] = []

    def check(self, num_blocks: int, block_size: int) -> None:
        assert len(self.ends) == 1, f"{self.seq_id} ended {len(self.ends)} times"
        assert self.tokens == self.expected[: len(self.tokens)]
        if self.ends == ["aborted"]:
            assert self.arrival.abort_after is not None
        elif self.ends[0].startswith("the sequence needs"):
            num_fed = len(self.request.prompt_token_ids) + len(self.expected) - 1
            assert num_fed > num_blocks * block_size, "refused, though it fits the pool"
        else:
            assert self.ends == [self.expected_reason.value] and self.tokens == self.expected
        if self.arrival.params.logprobs is not None:
            assert self.logprobs == sequential_logprobs(self.request, self.tokens, len(self.initial))
        if self.arrival.params.prompt_logprobs is not None and not self.initial and self.tokens:
            assert self.prompt_logprobs == prompt_logprobs(self.request)


def build(setup: Setup, drafter: KnowingDrafter) -> Engine:
    config = SchedulerConfig(setup.max_seqs, setup.batch_tokens, setup.chunk_size, watermark=setup.watermark)
    blocks = BlockManager(setup.num_blocks, setup.block_size, setup.prefix_cache)
    executor = ScriptedExecutor(setup.num_blocks, setup.block_size, VOCAB_SIZE)
    scheduler = Scheduler(config, blocks, MAX_MODEL_LEN)
    if setup.num_draft_tokens:
        return Engine(scheduler, executor, VirtualClock(), drafter=drafter)
    return Engine(scheduler, executor, VirtualClock(), setup.depth)


def take_report(engine: Engine, clients: dict[str, Client]) -> None:
    report = engine.step()
    for output in report.outputs:
        client = clients[output.seq_id]
        assert not client.ends, f"{output.seq_id} speaks after its end"
        assert output.first_index == len(client.tokens)
        client.tokens += output.token_ids
        client.logprobs += output.logprobs
        if output.prompt_logprobs is not None:
            assert client.prompt_logprobs is None
            client.prompt_logprobs = output.prompt_logprobs
        if output.finish_reason is not None:
            client.ends.append(output.finish_reason.value)
    for ended in report.ended:
        clients[ended.seq_id].ends.append(ended.error or "aborted")


@settings(max_examples=250, deadline=None)
@given(setup=setups(), load=st.lists(arrivals(), min_size=1, max_size=10))
@example(  # one block too few for both: the later one recomputes
    setup=Setup(2, 6, None, 64, 4, True, 2, 0.0),
    load=[Arrival(0, (1, 2, 3), SamplingParams(max_tokens=8, temperature=0.0), 0, (), 0, None)] * 2,
)
@example(  # preempted in the middle of a prompt whose log-probabilities are wanted: all of them again, none twice
    setup=Setup(2, 8, 2, 64, 4, True, 1, 0.0),
    load=[
        Arrival(0, (1, 2, 3, 4), SamplingParams(max_tokens=10, temperature=0.0), 0, (), 0, None),
        Arrival(0, tuple(range(12)), SamplingParams(max_tokens=2, temperature=0.0, prompt_logprobs=0), 0, (), 0, None),
    ],
)
def test_tokens_equal_the_sequential_model(setup: Setup, load: list[Arrival]) -> None:
    clients = {f"s{i}": Client(f"s{i}", arrival) for i, arrival in enumerate(load)}
    outputs = {client.seq_id: client.expected for client in clients.values()}
    engine = build(setup, KnowingDrafter(outputs, setup.num_draft_tokens))
    for step in range(STEP_LIMIT):
        for client in clients.values():
            if client.arrival.step == step:
                engine.run_local(client.seq_id, client.request, client.initial)
            if client.arrival.abort_after is not None and client.arrival.step + client.arrival.abort_after == step:
                engine.abort(client.seq_id)
        if step > 60 and not engine.has_work:
            break
        take_report(engine, clients)
        engine.scheduler.check()
    else:
        raise AssertionError("sequences starve")
    for client in clients.values():
        client.check(setup.num_blocks, setup.block_size)
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks) == (0, 0, setup.num_blocks)
    assert stats.num_accepted_tokens <= stats.num_draft_tokens and (
        setup.num_draft_tokens or not stats.num_draft_tokens
    )
