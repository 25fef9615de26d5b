"""Names for prefixes: a full block's hash stands for its token ids and everything before them.

``hash[i] = blake2b(hash[i - 1] || int32 token ids of block i)``, 128 bits, so equal hashes mean equal prefixes (a collision costs 2**64 work to
find). The root is a salt: caches with different salts never share.
"""

from array import array
from hashlib import blake2b

DIGEST_SIZE = 16  # bytes


def extend_chain(chain: list[bytes], token_ids: array, num_blocks: int, block_size: int, salt: bytes = b"") -> None:
    """Appends hashes to ``chain`` until it names the first ``num_blocks`` blocks of ``token_ids`` (int32)."""
    assert num_blocks * block_size <= len(token_ids), "a block can be named only when all its token ids are known"
    parent = chain[-1] if chain else salt
    width = block_size * token_ids.itemsize
    tokens = token_ids[len(chain) * block_size : num_blocks * block_size].tobytes()
    for start in range(0, len(tokens), width):
        parent = blake2b(parent + tokens[start : start + width], digest_size=DIGEST_SIZE).digest()
        chain.append(parent)
