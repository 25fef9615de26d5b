"""The block manager against a plain model: each sequence is a list of token ids, and reading it back through its table must give that list.

Writes run late and in order, as a device's do; reservations are written at once, as a peer's pushes are.
"""

from array import array
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nanopd.block_manager import BlockManager, BlockTable


class Owner:
    """A sequence: what it should hold, and where."""

    def __init__(self, tokens: list[int], table: BlockTable, chain: list[bytes], num_settled: int) -> None:
        self.tokens = array("i", tokens)
        self.table = table
        self.chain = chain
        self.num_settled = num_settled  # tokens whose write has run
        self.num_in_flight = 0


class Machine(RuleBasedStateMachine):
    @initialize(num_blocks=st.integers(4, 14), block_size=st.sampled_from([1, 2, 4]), prefix_cache=st.booleans())
    def build(self, num_blocks: int, block_size: int, prefix_cache: bool) -> None:
        self.blocks = BlockManager(num_blocks, block_size, prefix_cache)
        self.memory = [[-1] * block_size for _ in range(num_blocks)]
        self.owners: list[Owner] = []
        self.planned: list[tuple[Owner, array, int, int, array]] = []  # (owner, table at submit, start, end, token ids)
        self.copies: list[tuple[int, int]] = []
        self.steps: deque = deque()
        self.step_id = 0

    # ---- helpers

    def pick(self, index: int) -> Owner | None:
        return self.owners[index % len(self.owners)] if self.owners else None

    def touched(self) -> set[int]:
        """Blocks that a submitted step may still write or read."""
        tables = [table for _, planned, _ in self.steps for _, table, *_ in planned]
        return {block for table in tables for block in table} | {
            block for _, _, copies in self.steps for pair in copies for block in pair
        }

    def check_fresh(self, fresh: set[int]) -> None:
        assert not fresh & self.touched(), "a block was reused before its fence"
        assert not fresh & {source for source, _ in self.copies}, "the source of a pending copy was reused"

    def write(self, table: array, start: int, token_ids: array) -> None:
        for position, token in enumerate(token_ids, start):
            self.memory[table[position // self.blocks.block_size]][position % self.blocks.block_size] = token

    def read(self, table: array, end: int) -> list[int]:
        size = self.blocks.block_size
        return [self.memory[table[position // size]][position % size] for position in range(end)]

    # ---- rules

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=14), headroom=st.integers(0, 2))
    def allocate(self, tokens: list[int], headroom: int) -> None:
        chain: list[bytes] = []
        prefix = self.blocks.find_prefix(chain, array("i", tokens), len(tokens) - 1)
        if not self.blocks.can_allocate(len(tokens), prefix, headroom):
            return
        available = self.blocks.pool.num_available
        table = self.blocks.allocate(len(tokens), prefix)
        assert self.blocks.pool.num_available >= headroom and self.blocks.pool.num_available <= available
        self.check_fresh(set(table.ids[len(prefix) :]))
        num_cached = len(prefix) * self.blocks.block_size
        assert self.read(table.ids, num_cached) == tokens[:num_cached], "a false prefix hit"
        owner = Owner(tokens, table, chain, num_cached)
        self.owners.append(owner)
        self.plan(owner, num_cached)

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=14))
    def receive(self, tokens: list[int]) -> None:
        """A peer writes the rest of the sequence at once; then its blocks are known."""
        chain: list[bytes] = []
        prefix = self.blocks.find_prefix(chain, array("i", tokens), len(tokens))
        if not self.blocks.can_allocate(len(tokens), prefix):
            return
        table = self.blocks.allocate(len(tokens), prefix)
        self.check_fresh(set(table.ids[len(prefix) :]))
        start = len(prefix) * self.blocks.block_size
        self.write(table.ids, start, array("i", tokens[start:]))
        owner = Owner(tokens, table, chain, len(tokens))
        self.blocks.register(table, chain, owner.tokens, len(tokens))
        self.owners.append(owner)

    @rule(index=st.integers(0, 50), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=5))
    def append(self, index: int, tokens: list[int]) -> None:
        owner = self.pick(index)
        if owner is None or any(owner is planned[0] for planned in self.planned):
            return
        start, end = len(owner.tokens), len(owner.tokens) + len(tokens)
        if not self.blocks.can_write(owner.table, start, end):
            return
        before = set(owner.table.ids)
        copies = self.blocks.prepare_write(owner.table, start, end)
        self.check_fresh(set(owner.table.ids) - before)
        self.copies += copies
        assert all(self.blocks.is_writable(owner.table, position) for position in range(start, end))
        owner.tokens.extend(tokens)
        self.plan(owner, start)

    def plan(self, owner: Owner, start: int) -> None:
        owner.num_in_flight += 1
        self.planned.append((owner, array("i", owner.table.ids), start, len(owner.tokens), owner.tokens[start:]))

    @rule(index=st.integers(0, 50), share=st.floats(0, 1))
    def fork(self, index: int, share: float) -> None:
        owner = self.pick(index)
        if owner is None or any(owner is planned[0] for planned in self.planned):
            return  # what is planned but not submitted is written after copies of the same step are made
        num_tokens = max(1, int(len(owner.tokens) * share))
        table = self.blocks.fork(owner.table, num_tokens)
        chain = owner.chain[: num_tokens // self.blocks.block_size]
        child = Owner(owner.tokens[:num_tokens].tolist(), table, chain, min(owner.num_settled, num_tokens))
        self.owners.append(child)

    @rule(index=st.integers(0, 50), share=st.floats(0, 1))
    def truncate(self, index: int, share: float) -> None:
        """Rejected speculation: only after the step that wrote it."""
        owner = self.pick(index)
        if owner is None or owner.num_in_flight or owner.num_settled < len(owner.tokens):
            return
        num_tokens = max(1, int(len(owner.tokens) * share))
        self.blocks.truncate(owner.table, num_tokens)
        assert len(owner.table.ids) == self.blocks.blocks_for(num_tokens)
        del owner.tokens[num_tokens:]
        del owner.chain[num_tokens // self.blocks.block_size :]
        owner.num_settled = num_tokens

    @rule(index=st.integers(0, 50))
    def free(self, index: int) -> None:
        owner = self.pick(index)
        if owner is None or any(owner is planned[0] for planned in self.planned):
            return
        self.owners.remove(owner)
        self.blocks.free(owner.table)

    @precondition(lambda self: self.planned)
    @rule()
    def submit(self) -> None:
        self.blocks.pool.open_fence(self.step_id)
        self.steps.append((self.step_id, self.planned, self.copies))
        self.step_id += 1
        self.planned, self.copies = [], []

    @precondition(lambda self: self.steps)
    @rule()
    def complete(self) -> None:
        step_id, planned, copies = self.steps.popleft()
        for source, destination in copies:
            self.memory[destination] = list(self.memory[source])
        for _, table, start, _, token_ids in planned:
            self.write(table, start, token_ids)
        self.blocks.pool.close_fence(step_id)
        for owner, _, _, end, _ in planned:
            owner.num_in_flight -= 1
            owner.num_settled = max(owner.num_settled, end)
            if owner in self.owners:
                self.blocks.register(owner.table, owner.chain, owner.tokens, end)

    # ---- what must hold

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "blocks"):
            return
        self.blocks.check(owner.table for owner in self.owners)
        if self.steps or self.planned:
            return
        for owner in self.owners:
            assert self.read(owner.table.ids, len(owner.tokens)) == owner.tokens.tolist()

    def teardown(self) -> None:
        if not hasattr(self, "blocks"):
            return
        if self.planned:
            self.submit()
        while self.steps:
            self.complete()
        self.holds()
        for owner in self.owners:
            self.blocks.free(owner.table)
        self.blocks.check()
        assert self.blocks.pool.num_available == self.blocks.num_blocks


TestBlockManager = Machine.TestCase
TestBlockManager.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
