"""Token ids of a prompt: equal prefix hashes give equal tokens."""

from zlib import crc32

from nanopd.workload.spec import PREFIX_BLOCK, RequestSpec


def token_ids(spec: RequestSpec, vocab_size: int, seed: int = 0) -> tuple[int, ...]:
    """``spec.num_prompt_tokens`` ids in [0, ``vocab_size``), block by block from the prefix hashes.

    A block's tokens depend on its hash alone, so a block that is only half there is the start of the whole one. Blocks without a hash are
    drawn from the request's other fields.
    """
    import numpy as np  # here: naming a workload needs none of it

    ids: list[int] = []
    for index in range(-(-spec.num_prompt_tokens // PREFIX_BLOCK)):
        if index < len(spec.prefix_hashes):
            key = spec.prefix_hashes[index] & (2**64 - 1)
        else:
            key = crc32(repr((spec, index)).encode())
        block = np.random.Generator(np.random.Philox(key=[key, seed & (2**64 - 1)])).integers(
            0, vocab_size, PREFIX_BLOCK
        )
        ids += block.tolist()
    return tuple(ids[: spec.num_prompt_tokens])
