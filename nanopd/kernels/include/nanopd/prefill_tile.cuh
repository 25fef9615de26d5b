// What one CTA of a prefill kernel works on: a run of query tokens of one sequence, with all the query heads of one kv head.
//
// The query heads that share a kv head are packed into the rows of the tile (row = token * kGroup + head in group), so K
// and V are read once for the whole group, and a chunk of few tokens still fills the tensor cores' rows.
#pragma once

namespace nanopd {

struct PrefillTile {
    int seq;         // index into the batch
    int kv_head;
    int q_start;     // row of q and out where the sequence begins
    int first_token; // first query token of the tile, within the sequence's chunk
    int q_len;       // new tokens of the sequence
    int context_len; // keys of the sequence, new ones included

    // Keys [0, key_limit(token)) are visible to a query token of the chunk.
    __device__ int key_limit(int token) const { return min(context_len, context_len - q_len + token + 1); }
};

// Tiles of one sequence. Sequences without context are padding of a captured graph: nothing to do.
__device__ inline int num_prefill_tiles(const int* cu_q_lens, const int* context_lens, int seq, int num_seqs,
                                        int tokens_per_tile, int num_kv_heads) {
    if (seq >= num_seqs || context_lens[seq] <= 0) return 0;
    const int q_len = cu_q_lens[seq + 1] - cu_q_lens[seq];
    return (q_len + tokens_per_tile - 1) / tokens_per_tile * num_kv_heads;
}

// Tiles of the whole batch; a full warp calls it.
__device__ inline int count_prefill_tiles(const int* cu_q_lens, const int* context_lens, int num_seqs,
                                          int tokens_per_tile, int num_kv_heads) {
    int count = 0;
    for (int seq = threadIdx.x % 32; seq < num_seqs; seq += 32)
        count += num_prefill_tiles(cu_q_lens, context_lens, seq, num_seqs, tokens_per_tile, num_kv_heads);
    return __reduce_add_sync(0xffffffff, count);
}

// The sequence, of the 32 a warp's lanes hold the context of, that this lane's place has in the order of falling context.
__device__ inline int longest_first(int context_len) {
    const int lane = threadIdx.x % 32;
    int place = 0;
    for (int other = 0; other < 32; ++other) {
        const int theirs = __shfl_sync(0xffffffff, context_len, other);
        place += theirs > context_len || (theirs == context_len && other < lane);
    }
    int owner = 0;
    for (int other = 0; other < 32; ++other)
        if (__shfl_sync(0xffffffff, place, other) == lane) owner = other;
    return owner;
}

// The tile of a given index, false past the last; a full warp calls it. Long tiles come first, so that short ones fill the
// end of the launch: of each 32 sequences the one with the longest context, of each sequence the last tokens, which see the
// most keys. The kv heads come innermost, so that tiles running together walk through the same blocks.
__device__ inline bool find_prefill_tile(int index, const int* cu_q_lens, const int* context_lens, int num_seqs,
                                         int tokens_per_tile, int num_kv_heads, PrefillTile& tile) {
    const int lane = threadIdx.x % 32;
    for (int base = 0; base < num_seqs; base += 32) {
        int seq = base + lane;
        if (num_seqs > 1) seq = base + longest_first(seq < num_seqs ? context_lens[seq] : 0);
        const int tiles = num_prefill_tiles(cu_q_lens, context_lens, seq, num_seqs, tokens_per_tile, num_kv_heads);
        int end = tiles;  // inclusive scan over the warp's 32 sequences
        for (int distance = 1; distance < 32; distance *= 2) {
            const int below = __shfl_up_sync(0xffffffff, end, distance);
            if (lane >= distance) end += below;
        }
        const unsigned reached = __ballot_sync(0xffffffff, index < end);
        if (reached == 0) {
            index -= __shfl_sync(0xffffffff, end, 31);
            continue;
        }
        const int owner = __ffs(reached) - 1;
        const int from_end = __shfl_sync(0xffffffff, end, owner) - 1 - index;  // 0 is the sequence's last tile in this order
        tile.seq = __shfl_sync(0xffffffff, seq, owner);
        tile.kv_head = num_kv_heads - 1 - from_end % num_kv_heads;
        tile.first_token = from_end / num_kv_heads * tokens_per_tile;
        tile.q_start = cu_q_lens[tile.seq];
        tile.q_len = cu_q_lens[tile.seq + 1] - tile.q_start;
        tile.context_len = context_lens[tile.seq];
        return true;
    }
    return false;
}

}  // namespace nanopd
