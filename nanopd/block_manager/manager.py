"""Block tables of sequences on top of the pool: allocate, write, fork, truncate, free; prefix cache.

A table's blocks, in sequence order::

    [0, num_registered) full, computed, in the prefix cache (perhaps shared) | ours, or shared with a fork until someone writes
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nanopd.batch import BLOCK_TABLE_TYPECODE
from nanopd.block_manager.pool import BlockPool
from nanopd.block_manager.prefix import extend_chain


@dataclass(slots=True, eq=False)
class BlockTable:
    """One sequence's blocks. ``ids`` is int32 and grows in place: executors read it during ``submit``."""

    ids: array
    num_registered: int = 0  # leading blocks whose content the prefix cache knows


class BlockManager:
    """Decides which block holds which positions of which sequence. Queries and commands come in pairs."""

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_cache: bool = True, salt: bytes = b"") -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.enable_prefix_cache = enable_prefix_cache
        self._salt = salt

    @property
    def num_blocks(self) -> int:
        return self.pool.num_blocks

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    # ---- prefix cache

    def find_prefix(self, chain: list[bytes], token_ids: array, max_tokens: int) -> list[int]:
        """Blocks that already hold the longest known prefix of ``token_ids``, at most ``max_tokens`` of it.

        ``chain`` is the sequence's own list of block hashes; it is extended as far as needed and kept by the caller.
        """
        found: list[int] = []
        if not self.enable_prefix_cache:
            return found
        lookup = self.pool.lookup
        for index in range(max_tokens // self.block_size):
            if index == len(chain):
                extend_chain(chain, token_ids, index + 1, self.block_size, self._salt)
            block = lookup(chain[index])
            if block is None:
                break
            found.append(block)
        return found

    def register(self, table: BlockTable, chain: list[bytes], token_ids: array, num_computed_tokens: int) -> None:
        """Makes the table's full blocks within ``num_computed_tokens`` known. Their KV must have been computed (or received)."""
        num_full = num_computed_tokens // self.block_size
        if not self.enable_prefix_cache or num_full <= table.num_registered:
            return
        extend_chain(chain, token_ids, num_full, self.block_size, self._salt)
        register = self.pool.register
        for index in range(table.num_registered, num_full):
            register(table.ids[index], chain[index])
        table.num_registered = num_full

    # ---- tables

    def can_allocate(self, num_tokens: int, prefix: Sequence[int] = (), headroom: int = 0) -> bool:
        """Whether a table for ``num_tokens`` tokens that starts with the blocks ``prefix`` leaves ``headroom`` blocks available."""
        num_new = self.blocks_for(num_tokens) - len(prefix)
        return num_new + self.pool.num_revived(prefix) + headroom <= self.pool.num_available

    def allocate(self, num_tokens: int, prefix: Sequence[int] = ()) -> BlockTable:
        """A table for ``num_tokens`` tokens; its first blocks are ``prefix`` (from ``find_prefix``), shared."""
        for block in prefix:  # before taking any: they must not be evicted
            self.pool.share(block)
        ids = array(BLOCK_TABLE_TYPECODE, prefix)
        ids.extend([self.pool.take() for _ in range(self.blocks_for(num_tokens) - len(prefix))])
        return BlockTable(ids, num_registered=len(prefix))

    def is_writable(self, table: BlockTable, position: int) -> bool:
        """Whether ``position`` can be written as things are: in the table, in a block that is nobody else's and not in the prefix cache."""
        index = position // self.block_size
        if index >= len(table.ids):
            return False
        block = table.ids[index]
        return self.pool.refs[block] == 1 and block not in self.pool.hash_of

    def can_write(self, table: BlockTable, start: int, end: int, headroom: int = 0) -> bool:
        """Whether ``prepare_write`` of positions [start, end) would leave ``headroom`` blocks available."""
        refs = self.pool.refs
        num_shared = sum(refs[block] > 1 for block in table.ids[start // self.block_size : self.blocks_for(end)])
        num_new = max(self.blocks_for(end) - len(table.ids), 0)
        return num_shared + num_new + headroom <= self.pool.num_available

    def prepare_write(self, table: BlockTable, start: int, end: int) -> list[tuple[int, int]]:
        """Makes positions [start, end) writable: appends blocks, and replaces shared ones by fresh ones (copy-on-write).

        Returns the (source, destination) copies that must run before the next step writes.
        """
        pool, copies = self.pool, []
        first = start // self.block_size
        for index in range(first, min(self.blocks_for(end), len(table.ids))):
            block = table.ids[index]
            if pool.refs[block] > 1:
                fresh = pool.take()
                pool.note_copy_source(block)
                pool.release(block)
                table.ids[index] = fresh
                copies.append((block, fresh))
            else:
                pool.unregister(block)
        table.num_registered = min(table.num_registered, first)
        while len(table.ids) < self.blocks_for(end):
            table.ids.append(pool.take())
        return copies

    def fork(self, table: BlockTable, num_tokens: int) -> BlockTable:
        """A second table over the blocks that hold the first ``num_tokens`` tokens. Whoever writes first gets a copy."""
        ids = table.ids[: self.blocks_for(num_tokens)]
        for block in ids:
            self.pool.share(block)
        return BlockTable(ids, min(table.num_registered, num_tokens // self.block_size))

    def truncate(self, table: BlockTable, num_tokens: int) -> None:
        """Rolls back to the first ``num_tokens`` tokens (rejected speculation): blocks past them are released.

        No step in flight may write the sequence. The caller shortens its chain of hashes to ``num_tokens // block_size`` too.
        """
        keep = self.blocks_for(num_tokens)
        for block in reversed(table.ids[keep:]):
            self.pool.release(block)
        del table.ids[keep:]
        table.num_registered = min(table.num_registered, num_tokens // self.block_size)

    def free(self, table: BlockTable) -> None:
        """The owner is done with the table. The end of a sequence is evicted before its beginning."""
        for block in reversed(table.ids):
            self.pool.release(block)
        table.ids = array(BLOCK_TABLE_TYPECODE)
        table.num_registered = 0

    # ---- invariant

    def check(self, tables: Iterable[BlockTable] = ()) -> None:
        """Asserts the pool's invariant and that ``tables`` are all its owners: nothing leaked, nothing owned twice."""
        self.pool.check()
        refs = [0] * self.num_blocks
        for table in tables:
            assert len(set(table.ids)) == len(table.ids), "a table holds a block twice"
            for block in table.ids:
                refs[block] += 1
        assert refs == list(self.pool.refs), "reference counts differ from the tables'"
