"""Which block of the paged KV cache holds what: reference counts, copy-on-write, prefix cache, fences.

Paged KV: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023.
"""

from nanopd.block_manager.manager import BlockManager, BlockTable

__all__ = ["BlockManager", "BlockTable"]
