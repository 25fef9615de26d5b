"""The pool of KV blocks: who owns a block, who may still touch it, what its content is known to be.

Every block is in exactly one place::

    free ---take---> owned (reference count >= 1) ---release---> free      its content is not known to the prefix cache
     ^                 ^  |                                       cached    its content is: kept until the space is needed
     |                 |  `--release while a step runs---> fenced ---close_fence---> free | cached
     `----evict (take, least recently used first)---- cached

A block has two lifetimes: its logical owners, and the steps already submitted when the last owner let go (the *fence*: they may still
read or write it). It is handed out again only when both have ended. Steps end in the order of their ids.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence

_NO_STEP = -1


class BlockPool:
    """``num_blocks`` block ids, ``0 <= id < num_blocks``. Holds bookkeeping only; the KV itself is elsewhere."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.refs = array("i", bytes(4 * num_blocks))  # owners of each block
        self.hash_of: dict[int, bytes] = {}  # prefix hash of a registered block
        self._free: list[int] = []  # a stack: the block freed last is the warmest
        self._num_used = 0  # blocks from here on were never taken; they come after the freed ones
        self._cached: OrderedDict[int, None] = OrderedDict()  # registered, without owner; least recently used first
        self._block_of: dict[bytes, int] = {}
        self._fenced: dict[int, int] = {}  # block without owner -> last step that may touch it
        self._last_opened = _NO_STEP
        self._last_closed = _NO_STEP
        self._copy_sources: set[int] = set()  # read by the next step's block copies

    # ---- counts

    @property
    def num_available(self) -> int:
        """Blocks that ``take`` can hand out now: free or evictable."""
        return len(self._free) + self.num_blocks - self._num_used + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_fenced(self) -> int:
        """Blocks without owner that become available when steps already submitted end."""
        return len(self._fenced)

    def num_revived(self, blocks: Sequence[int]) -> int:
        """How many of ``blocks`` would leave the available ones if they were shared."""
        return sum(block in self._cached for block in blocks)

    # ---- ownership

    def take(self) -> int:
        """A block with one owner and unknown content. The caller has checked ``num_available``."""
        if self._free:
            block = self._free.pop()
        elif self._num_used < self.num_blocks:
            block = self._num_used
            self._num_used += 1
        else:
            assert self._cached, "no block is available"
            block, _ = self._cached.popitem(last=False)
            self.unregister(block)
        self.refs[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more owner of a block that is owned, cached, or fenced with known content."""
        if self.refs[block] == 0 and self._fenced.pop(block, None) is None:
            del self._cached[block]
        self.refs[block] += 1

    def release(self, block: int) -> None:
        """One owner less. Without owners the block becomes available as soon as no submitted step can touch it."""
        refs = self.refs[block] - 1
        assert refs >= 0, f"block {block} was released more often than taken"
        self.refs[block] = refs
        if refs:
            return
        if block in self._copy_sources:
            self._fenced[block] = self._last_opened + 1
        elif self._last_opened > self._last_closed:
            self._fenced[block] = self._last_opened
        else:
            self._make_available(block)

    def _make_available(self, block: int) -> None:
        if block not in self.hash_of:
            self._free.append(block)
        else:
            self._cached[block] = None

    # ---- fences

    def note_copy_source(self, block: int) -> None:
        """The next step reads ``block`` to copy it: if it loses its owners now, it is fenced by that step."""
        self._copy_sources.add(block)

    def open_fence(self, step_id: int) -> None:
        """A step was submitted. Until it is closed, blocks that lose their last owner wait for it."""
        assert step_id > self._last_opened, f"step {step_id} opened after {self._last_opened}"
        self._last_opened = step_id
        self._copy_sources.clear()

    def close_fence(self, step_id: int) -> None:
        """A step has run: nothing of it, or of any step before it, can touch a block any more."""
        assert self._last_closed < step_id <= self._last_opened, f"step {step_id} closed out of order"
        self._last_closed = step_id
        if self._fenced:
            for block in [block for block, fence in self._fenced.items() if fence <= step_id]:
                del self._fenced[block]
                self._make_available(block)

    def skip_fences(self, num_steps: int) -> None:
        """As many steps were submitted and have run as one after another; nothing was released meanwhile."""
        assert not self._fenced and not self._copy_sources
        self._last_opened += num_steps
        self._last_closed += num_steps

    # ---- known content

    def lookup(self, prefix_hash: bytes) -> int | None:
        """The block holding this content, if one does."""
        return self._block_of.get(prefix_hash)

    def register(self, block: int, prefix_hash: bytes) -> None:
        """The owned ``block`` now holds this content for good. A second block of equal content stays unknown."""
        assert self.refs[block] > 0, f"block {block} was registered without owner"
        if prefix_hash not in self._block_of and block not in self.hash_of:
            self._block_of[prefix_hash] = block
            self.hash_of[block] = prefix_hash

    def unregister(self, block: int) -> None:
        """The content of ``block`` is about to change."""
        prefix_hash = self.hash_of.pop(block, None)
        if prefix_hash is not None:
            del self._block_of[prefix_hash]

    # ---- invariant

    def check(self) -> None:
        """Asserts that free + owned + cached = total, each block in one place, and that the cache's two maps agree."""
        free, cached = {*self._free, *range(self._num_used, self.num_blocks)}, set(self._cached)
        fenced = set(self._fenced)
        owned = {block for block in range(self.num_blocks) if self.refs[block] > 0}
        assert len(free) == len(self._free) + self.num_blocks - self._num_used, "a block is free twice"
        assert all(fence > self._last_closed for fence in self._fenced.values()), "a fence outlived its step"
        total = len(free) + len(cached) + len(fenced) + len(owned)
        assert total == self.num_blocks == len(free | cached | fenced | owned), (
            f"free + owned + cached = {total}, expected {self.num_blocks}"
        )
        assert all(refs >= 0 for refs in self.refs)
        assert not any(block in self.hash_of for block in free)
        assert all(block in self.hash_of for block in cached)
        assert self._block_of == {h: block for block, h in self.hash_of.items()}
