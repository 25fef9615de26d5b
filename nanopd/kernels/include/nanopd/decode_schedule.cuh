// Who computes what in paged decode, decided on the device, so that a captured graph stays balanced as contexts grow.
//
// An item is one (sequence, kv head); its context is cut into tiles of kTileKeys keys. All tiles of all items, in order, are
// one line of `total` tiles, and the line is cut into equal pieces, one a CTA ("stream-K", Osama et al., arXiv 2301.03598):
//
//     items   | seq 0 head 0 | seq 0 head 1 | seq 1 head 0            | seq 1 head 1            |
//     CTAs    | 0        | 1        | 2        | 3        | 4        | 5        | 6        | 7   |
#pragma once

#include <nanopd/math.cuh>

namespace nanopd {

// `total` tiles over a number of CTAs, the first `remainder` of which take one more.
struct Split {
    int quotient, remainder;

    __device__ Split(int total, int num_ctas) : quotient(total / num_ctas), remainder(total % num_ctas) {}
    __device__ int begin(int cta) const { return cta * quotient + min(cta, remainder); }
    __device__ int owner(int tile) const {
        const int by_larger = remainder * (quotient + 1);
        return tile < by_larger ? tile / (quotient + 1) : remainder + (tile - by_larger) / quotient;
    }
};

// One (sequence, kv head) and the tiles [begin, end) of the line that are its.
template <int kTileKeys>
struct Item {
    int seq, kv_head, context_len, begin, end;

    __device__ static int num_tiles(int context_len) { return (max(context_len, 0) + kTileKeys - 1) / kTileKeys; }

    __device__ void start_sequence(const int* context_lens, int new_seq, int first_tile) {
        seq = new_seq, kv_head = 0, context_len = context_lens[new_seq];
        begin = first_tile, end = first_tile + num_tiles(context_len);
    }
    // The item that `tile` belongs to, at or after this one; the caller knows that it exists.
    __device__ void advance_to(int tile, const int* context_lens, int num_kv_heads) {
        while (tile >= end) {
            if (++kv_head == num_kv_heads || end == begin) {
                start_sequence(context_lens, seq + 1, end);
            } else {
                const int length = end - begin;
                begin = end, end += length;
            }
        }
    }
};

// What the CTAs agree on: how many of them work, how the line is cut, and where this one's piece begins.
struct Plan {
    int total, num_ctas;
    int seq, seq_begin;  // the sequence holding this CTA's first tile, and that sequence's first tile
};

// Every thread calls; scratch holds one int a warp. CTAs take at least min_tiles each: below that, more of them only add
// partial results to be combined.
template <int kTileKeys, int kThreads>
__device__ Plan make_plan(const int* context_lens, int num_seqs, int num_kv_heads, int min_tiles, int* scratch, Plan* shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int strip = (num_seqs + kThreads - 1) / kThreads;
    const int first = min(static_cast<int>(threadIdx.x) * strip, num_seqs), last = min(first + strip, num_seqs);
    int mine = 0;
    for (int seq = first; seq < last; ++seq) mine += Item<kTileKeys>::num_tiles(context_lens[seq]) * num_kv_heads;

    int inclusive = mine;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int below = __shfl_up_sync(kFullWarp, inclusive, distance);
        if (lane >= distance) inclusive += below;
    }
    if (lane == 31) scratch[warp] = inclusive;
    __syncthreads();
    int total = 0, before = inclusive - mine;
#pragma unroll
    for (int w = 0; w < kThreads / 32; ++w) {
        before += w < warp ? scratch[w] : 0;
        total += scratch[w];
    }
    const int num_ctas = max(1, min(static_cast<int>(gridDim.x), (total + min_tiles - 1) / min_tiles));
    const int begin = Split(total, num_ctas).begin(blockIdx.x);
    if (before <= begin && begin < before + mine) {  // at most one thread: it holds the sequence this CTA begins in
        int seq = first, seq_begin = before;
        for (;; ++seq) {
            const int length = Item<kTileKeys>::num_tiles(context_lens[seq]) * num_kv_heads;
            if (begin < seq_begin + length) break;
            seq_begin += length;
        }
        *shared = Plan{total, num_ctas, seq, seq_begin};
    }
    __syncthreads();
    return Plan{total, num_ctas, shared->seq, shared->seq_begin};
}

}  // namespace nanopd
