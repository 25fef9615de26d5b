"""The paged KV tensors of one worker."""

from nanopd.kv_cache.sizing import size_pool
from nanopd.kv_cache.store import KvCache

__all__ = ["KvCache", "size_pool"]
