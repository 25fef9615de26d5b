// Causal attention of chunks of new tokens on paged context, for Hopper.
//
// After FlashAttention-3 (Shah et al., arXiv 2407.08608): one producer warp copies K and V through TMA, one box a block,
// straight from the block table, while consumer warpgroups of 64 rows each run both products as wgmma. The warpgroups
// issue their products in turn ("ping-pong"), so that one computes exponentials while the other multiplies. CTAs are
// persistent and draw their work from a counter, longest first: the producer already loads the next tile while the
// consumers finish and store the last one. When tiles are too few to fill the GPU, each is split along its keys, and the
// last part to finish merges them.
//
// Macros: SCALAR (__nv_bfloat16 | __half), HEAD_DIM (64 | 128 | 256), BLOCK_SIZE (8 | 16 | 32 | 64), GROUP (query heads a
// kv head), BLOCK_N (keys of a tile: 64 | 128 | 160), SPLIT (0: num_splits is 1. Without the code that merges parts the
// compiler sees that warps never diverge in the main loop, and leaves out what would bring them together again).
#include <nanopd/bulk_copy.cuh>
#include <nanopd/online_softmax.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/prefill_merge.cuh>
#include <nanopd/prefill_tile.cuh>
#include <nanopd/sm90_tma.cuh>
#include <nanopd/sm90_warpgroup.cuh>
#include <nanopd/sm90_wgmma.cuh>

namespace nanopd {

constexpr int kHeadDim = HEAD_DIM, kBlockSize = BLOCK_SIZE, kGroup = GROUP;
constexpr int kNumConsumers = 2, kWarpgroup = 128, kNumConsumerWarps = 4 * kNumConsumers;
constexpr int BLOCK_M = 64 * kNumConsumers;
constexpr int kNumStages = 2;
constexpr int kTokens = BLOCK_M / kGroup;  // query tokens of a tile; the last BLOCK_M % kGroup rows stay empty
constexpr int kBlocks = BLOCK_N / kBlockSize;  // blocks of a key tile

// Shared memory, in bytes: Q lies as panels of 64 columns, K and V as groups of 8 keys, which is how one box of TMA writes
// a whole block.
constexpr int kPanels = kHeadDim / kAtomColumns;
constexpr int kQueryPanel = BLOCK_M * kAtomRowBytes;
constexpr int kKeyGroup = kPanels * kAtomBytes;
constexpr int kBlockBytes = kBlockSize / kAtomRows * kKeyGroup, kTileBytes = kBlocks * kBlockBytes;

static_assert(kHeadDim == 64 || kHeadDim == 128 || kHeadDim == 256, "head dim must be 64, 128 or 256");
static_assert(kGroup >= 1 && kGroup <= BLOCK_M, "the heads of one group must fit the tile's rows");
static_assert(BLOCK_N % kBlockSize == 0 && kBlockSize % kAtomRows == 0, "a tile holds whole blocks, a block whole atoms");
static_assert(kBlocks <= 32, "each lane of the producer warp loads at most one block of a tile");

struct Params {
    const int* block_tables;  // [B, M], rows block_table_stride apart
    const int* cu_q_lens;     // [B + 1]
    const int* context_lens;  // [B]
    SCALAR* out;              // [T, Hq, D], rows out_stride apart
    unsigned* counter;        // one: work drawn so far; 0 before and after
    int* arrivals;            // [tiles, kNumConsumerWarps]: parts that have finished; 0 before and after
    float4* part_out;         // [tiles, num_splits, kNumConsumerWarps, kHeadDim / 8, 32]: each lane's outputs
    float4* part_state;       // [tiles, num_splits, kNumConsumerWarps, 32]: its two maxima and its two sums
    long long out_stride;
    int block_table_stride, num_seqs, num_kv_heads;
    int num_splits;           // parts a tile is split into at most
    float scale_log2;
};

// A tile, or the part of one, that sees the key tiles [begin, end).
struct Work {
    PrefillTile tile;
    int index;  // of the tile, -1 when there is no more work
    int part, num_parts;
    int begin, end;
};

// The part of a tile that work number `number` is; false when the tile has fewer parts than num_splits.
__device__ inline bool split(const PrefillTile& tile, int number, int num_splits, Work& work) {
    const int last_token = min(tile.first_token + kTokens, tile.q_len) - 1;
    const int num_key_tiles = max((tile.key_limit(last_token) + BLOCK_N - 1) / BLOCK_N, 1);  // no special case for none
    const int per_part = (num_key_tiles + num_splits - 1) / num_splits;
    work.tile = tile;
    work.index = number / num_splits;
    work.part = number % num_splits;
    work.num_parts = (num_key_tiles + per_part - 1) / per_part;
    work.begin = work.part * per_part;
    work.end = min(work.begin + per_part, num_key_tiles);
    return work.part < work.num_parts;
}

struct Shared {
    unsigned char query[kPanels * kQueryPanel];
    unsigned char keys[kNumStages][kTileBytes], values[kNumStages][kTileBytes];
    Barrier keys_full[kNumStages], keys_empty[kNumStages], values_full[kNumStages], values_empty[kNumStages];
    Barrier work_full, work_empty;  // guard `query` and `work`
    Work work;
};

// Use i of a ring of stages lies in stage_of(i) and ends that stage's phase of parity_of(i).
__device__ inline int stage_of(unsigned use) { return use % kNumStages; }
__device__ inline unsigned parity_of(unsigned use) { return use / kNumStages % 2; }

struct Producer {
    const Params& params;
    Shared& shared;
    const TensorMap& q_map;   // [T, Hq, D] in boxes of [kTokens, kGroup, 64]
    const TensorMap& kv_map;  // [num_blocks, groups of 8 rows of K and V, kPanels, 8, 64] in boxes of one head's block
    const int lane = threadIdx.x % 32;
    unsigned num_loaded = 0;  // key tiles so far
    unsigned num_published = 0;

    // The block this lane loads of key tile n; past the context -1, which TMA reads as zeros.
    __device__ int block_of(const PrefillTile& tile, int n) const {
        const int i = n * kBlocks + lane;
        if (n < 0 || lane >= kBlocks || i * kBlockSize >= tile.context_len) return -1;
        return params.block_tables[static_cast<long long>(tile.seq) * params.block_table_stride + i];
    }

    // `row` is the first of the wanted rows in a block: K of all heads, then V of all heads.
    __device__ void load(unsigned char* stage, Barrier* full, Barrier* empty, int block, int row) const {
        barrier_wait(empty, parity_of(num_loaded) ^ 1);
        if (lane == 0) barrier_arrive_expect(full, kTileBytes);
        __syncwarp();
        if (lane < kBlocks) tma_load_5d(stage + lane * kBlockBytes, kv_map, full, 0, 0, 0, row / kAtomRows, block);
    }

    __device__ void load_keys(int head, int block) const {
        const int s = stage_of(num_loaded);
        load(shared.keys[s], &shared.keys_full[s], &shared.keys_empty[s], block, head * kBlockSize);
    }

    __device__ void load_values(int head, int block) const {
        const int s = stage_of(num_loaded);
        load(shared.values[s], &shared.values_full[s], &shared.values_empty[s], block,
             (params.num_kv_heads + head) * kBlockSize);
    }

    // Hands work to the consumers together with its queries. Rows past the batch arrive as zeros.
    __device__ void publish(const Work& work) {
        barrier_wait(&shared.work_empty, (num_published++ & 1) ^ 1);
        if (lane == 0) {
            shared.work = work;
            if (work.index < 0) barrier_arrive(&shared.work_full);
            else barrier_arrive_expect(&shared.work_full, kPanels * kTokens * kGroup * kAtomRowBytes);
        }
        __syncwarp();
        if (work.index >= 0 && lane < kPanels)
            tma_load_3d(shared.query + lane * kQueryPanel, q_map, &shared.work_full, lane * kAtomColumns,
                        work.tile.kv_head * kGroup, work.tile.q_start + work.tile.first_token);
    }

    __device__ void load(const Work& work) {
        const int head = work.tile.kv_head;
        int block = block_of(work.tile, work.end - 1);
        load_keys(head, block);
        publish(work);
        for (int n = work.end - 1; n >= work.begin; --n) {
            const int next_block = n > work.begin ? block_of(work.tile, n - 1) : -1;  // fetched under the waits
            load_values(head, block);
            ++num_loaded;
            block = next_block;
            if (n > work.begin) load_keys(head, block);
        }
    }

    __device__ void run() {
        const auto& p = params;
        const unsigned num_splits = SPLIT ? p.num_splits : 1;
        const unsigned total =
            num_splits * count_prefill_tiles(p.cu_q_lens, p.context_lens, p.num_seqs, kTokens, p.num_kv_heads);
        unsigned number = blockIdx.x;
        Work work;
        PrefillTile tile;
        while (number < total) {
            find_prefill_tile(number / num_splits, p.cu_q_lens, p.context_lens, p.num_seqs, kTokens, p.num_kv_heads, tile);
            const bool exists = split(tile, number, num_splits, work);
            // Each of the `total` numbers is followed by one draw, so the counter wraps to 0 by itself.
            if (lane == 0) number = gridDim.x + atomicInc(p.counter, total - 1);
            if (exists) load(work);
            number = __shfl_sync(0xffffffff, number, 0);
        }
        work.index = -1;
        publish(work);
    }
};

struct Consumer {
    const Params& params;
    Shared& shared;
    const int warpgroup = threadIdx.x / kWarpgroup - 1, warp = threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
    const int row = warp * 16 + lane / 4;  // this lane's first row of the tile; the other is row + 8
    unsigned num_used = 0;                 // key tiles so far

    // One arrival a warp, when its reads (and wgmma's for it) are over.
    __device__ void release(Barrier* empty) const {
        if (lane == 0) barrier_arrive(empty);
    }

    __device__ void begin_turn() const { named_barrier_sync(1 + warpgroup, 2 * kWarpgroup); }
    __device__ void end_turn() const { named_barrier_arrive(1 + (warpgroup + 1) % kNumConsumers, 2 * kWarpgroup); }

    __device__ void issue_scores(float (&scores)[BLOCK_N / 2], unsigned use) const {
        const auto q = operand_descriptor(shared.query + warpgroup * 64 * kAtomRowBytes, kAtomBytes);
        const auto k = operand_descriptor(shared.keys[stage_of(use)], kKeyGroup);
        pin_registers(scores);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kHeadDim / 16; ++i) {
            const int panel = i / 4, within = i % 4 * 32;
            wgmma_shared<SCALAR, BLOCK_N>(scores, advanced(q, panel * kQueryPanel + within),
                                          advanced(k, panel * kAtomBytes + within), i > 0);
        }
        wgmma_commit();
    }

    __device__ void issue_output(float (&output)[kHeadDim / 2], const unsigned (&probabilities)[BLOCK_N / 16][4],
                                 unsigned use) const {
        constexpr int kColumns = kHeadDim < 128 ? kHeadDim : 128;  // of one instruction
        const auto v = operand_descriptor(shared.values[stage_of(use)], kKeyGroup, kAtomBytes);
        pin_registers(output);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < BLOCK_N / 16; ++i)
#pragma unroll
            for (int c = 0; c < kHeadDim / kColumns; ++c)
                wgmma_registers<SCALAR, kColumns>(
                    output + c * kColumns / 2, probabilities[i],
                    advanced(v, i * 2 * kKeyGroup + c * kColumns / kAtomColumns * kAtomBytes), true);
        wgmma_commit();
    }

    // Zeroes the values between the end of the context and the end of its last block, if that lies in key tile n: their
    // probability is 0, but an unused slot of the cache may hold NaN. Every warpgroup does it for itself.
    __device__ void clear_tail(const PrefillTile& tile, int n) const {
        const int begin = tile.context_len - n * BLOCK_N;
        const int end = (begin + kBlockSize - 1) / kBlockSize * kBlockSize;
        if (begin >= BLOCK_N || begin == end) return;
        barrier_wait(&shared.values_full[stage_of(num_used)], parity_of(num_used));
        unsigned char* const values = shared.values[stage_of(num_used)];
        constexpr int kPieces = kAtomRowBytes / 16;
        for (int i = threadIdx.x % kWarpgroup; i < (end - begin) * kPanels * kPieces; i += kWarpgroup) {
            const int key = begin + i / kPieces / kPanels, panel = i / kPieces % kPanels;
            const int offset = key / kAtomRows * kKeyGroup + panel * kAtomBytes + key % kAtomRows * kAtomRowBytes;
            *reinterpret_cast<uint4*>(values + offset + i % kPieces * 16) = make_uint4(0, 0, 0, 0);
        }
        async_proxy_fence();
        named_barrier_sync(1 + kNumConsumers + warpgroup, kWarpgroup);
    }

    // Leaves the output of this work's keys, not yet normalised, and the softmax state that goes with it.
    __device__ void attend(const Work& work, float (&output)[kHeadDim / 2], OnlineSoftmax& softmax) {
        const PrefillTile& tile = work.tile;
        const int first_limit = tile.key_limit(tile.first_token);
        const int key_limit[2] = {tile.key_limit(tile.first_token + row / kGroup),
                                  tile.key_limit(tile.first_token + (row + 8) / kGroup)};
        float scores[BLOCK_N / 2], correction[2];
        unsigned probabilities[BLOCK_N / 16][4];

        int n = work.end - 1;
        barrier_wait(&shared.keys_full[stage_of(num_used)], parity_of(num_used));
        issue_scores(scores, num_used);
        wgmma_wait<0>();
        pin_registers(scores);
        release(&shared.keys_empty[stage_of(num_used)]);
        clear_tail(tile, n);
        mask_scores<BLOCK_N>(scores, n * BLOCK_N, key_limit);
        softmax.raise_max<BLOCK_N>(scores, params.scale_log2, correction);
        softmax.exponentiate<BLOCK_N>(scores, params.scale_log2);
        pack_probabilities<SCALAR, BLOCK_N>(scores, probabilities);

        // The scores of key tile n, and the output of the tile before it, whose probabilities are ready.
        auto step = [&](int n, bool masked) {
            const unsigned use = num_used++, next = num_used;
            barrier_wait(&shared.keys_full[stage_of(next)], parity_of(next));
            begin_turn();
            issue_scores(scores, next);
            barrier_wait(&shared.values_full[stage_of(use)], parity_of(use));
            issue_output(output, probabilities, use);
            end_turn();
            wgmma_wait<1>();
            pin_registers(scores);
            release(&shared.keys_empty[stage_of(next)]);
            if (masked) mask_scores<BLOCK_N>(scores, n * BLOCK_N, key_limit);
            softmax.raise_max<BLOCK_N>(scores, params.scale_log2, correction);
            softmax.exponentiate<BLOCK_N>(scores, params.scale_log2);
            wgmma_wait<0>();
            pin_registers(output);
            release(&shared.values_empty[stage_of(use)]);
            scale_rows(output, correction);
            pack_probabilities<SCALAR, BLOCK_N>(scores, probabilities);
        };
        // Two loops, so that the one that runs long has no mask in it (2 % of the time at 8192 tokens).
        for (--n; n >= work.begin && (n + 1) * BLOCK_N > first_limit; --n) step(n, true);
        for (; n >= work.begin; --n) step(n, false);

        barrier_arrive(&shared.work_empty);  // by every lane, for itself: each has read `work`
        const unsigned use = num_used++;
        barrier_wait(&shared.values_full[stage_of(use)], parity_of(use));
        issue_output(output, probabilities, use);
        wgmma_wait<0>();
        pin_registers(output);
        release(&shared.values_empty[stage_of(use)]);
    }

    // True for the one that has the whole tile in its registers and stores it.
    __device__ bool merge(const Work& work, float (&output)[kHeadDim / 2], OnlineSoftmax& softmax) const {
        if (work.num_parts == 1) return true;
        const int first = work.index * params.num_splits * kNumConsumerWarps + warp;
        const TileParts parts = {params.part_out + first * (kHeadDim / 8) * 32, params.part_state + first * 32,
                                 params.arrivals + work.index * kNumConsumerWarps + warp, work.part, work.num_parts};
        return merge_parts<kNumConsumerWarps>(parts, output, softmax, params.scale_log2);
    }

    __device__ void store(const PrefillTile& tile, float (&output)[kHeadDim / 2], OnlineSoftmax& softmax) const {
        SCALAR* row_out[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int token = (row + 8 * r) / kGroup, head = tile.kv_head * kGroup + (row + 8 * r) % kGroup;
            const long long t = tile.q_start + tile.first_token + token;
            const bool valid = token < min(kTokens, tile.q_len - tile.first_token);
            row_out[r] = valid ? params.out + t * params.out_stride + head * kHeadDim : nullptr;
        }
        float normaliser[2];
        softmax.finish(normaliser);
        scale_rows(output, normaliser);
        store_rows<SCALAR, kHeadDim>(output, row_out);
    }

    __device__ void run() {
        if (warpgroup == 1) end_turn();  // the first turn is warpgroup 0's
        for (unsigned parity = 0;; parity ^= 1) {
            barrier_wait(&shared.work_full, parity);
            const Work work = shared.work;
            if (work.index < 0) return;
            float output[kHeadDim / 2] = {};
            OnlineSoftmax softmax;
            attend(work, output, softmax);
            if constexpr (SPLIT) {
                const int num_rows = min(kTokens, work.tile.q_len - work.tile.first_token) * kGroup;
                if (warp * 16 >= num_rows || !merge(work, output, softmax)) continue;
            }
            store(work.tile, output, softmax);
        }
    }
};

}  // namespace nanopd

extern "C" __global__ void __launch_bounds__(384, 1)
    sm90_paged_prefill_kernel(const __grid_constant__ nanopd::TensorMap q_map,
                              const __grid_constant__ nanopd::TensorMap kv_map,
                              const __grid_constant__ nanopd::Params params) {
    using namespace nanopd;
    extern __shared__ unsigned char raw[];
    auto& shared = *reinterpret_cast<Shared*>(raw + (-shared_address(raw) & (kAtomBytes - 1)));

    if (threadIdx.x == 0) {
        for (int s = 0; s < kNumStages; ++s) {
            barrier_init(&shared.keys_full[s], 1);
            barrier_init(&shared.values_full[s], 1);
            barrier_init(&shared.keys_empty[s], kNumConsumerWarps);
            barrier_init(&shared.values_empty[s], kNumConsumerWarps);
        }
        barrier_init(&shared.work_full, 1);
        barrier_init(&shared.work_empty, kNumConsumers * kWarpgroup);
        barrier_init_fence();
        tma_prefetch(q_map);
        tma_prefetch(kv_map);
    }
    __syncthreads();
    wait_for_predecessor();
    let_successor_start();

    // Registers: 384 threads start with 168 each; 40 and 232 use the same 64,512.
    if (threadIdx.x < kWarpgroup) {
        release_registers<40>();
        if (threadIdx.x < 32) Producer{params, shared, q_map, kv_map}.run();
    } else {
        claim_registers<232>();
        Consumer{params, shared}.run();
    }
}
