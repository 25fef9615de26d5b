// Causal attention of chunks of new tokens on paged context, for Hopper.
//
// After FlashAttention-3 (Shah et al., arXiv 2407.08608): one producer warp copies K and V blocks through TMA, straight from the
// block table, while consumer warpgroups of 64 rows each run both products as wgmma. Softmax hides behind matrix work twice:
// a warpgroup's softmax of one key tile overlaps its own product with V of the tile before, and the warpgroups take turns
// at issuing products ("ping-pong"), so that one computes exponentials while the other multiplies. CTAs are persistent and draw
// tiles from a counter, longest first, so the producer already loads the next tile while the last one is finished and stored.
//
// Macros: SCALAR (__nv_bfloat16 | __half), HEAD_DIM (64 | 128 | 256), BLOCK_SIZE (8 | 16 | 32 | 64), GROUP (query heads a kv head).
#include <nanopd/bulk_copy.cuh>
#include <nanopd/mma.cuh>
#include <nanopd/online_softmax.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/prefill_tile.cuh>
#include <nanopd/sm90_tma.cuh>
#include <nanopd/sm90_warpgroup.cuh>
#include <nanopd/sm90_wgmma.cuh>

#ifndef TUNE_QREG
#define TUNE_QREG 0
#endif
#ifndef TUNE_NOLOAD
#define TUNE_NOLOAD 0
#endif
#ifndef TUNE_NOSOFT
#define TUNE_NOSOFT 0
#endif
#ifndef TUNE_PREG
#define TUNE_PREG 40
#define TUNE_CREG 232
#endif
#ifndef TUNE_PIN
#define TUNE_PIN 0
#endif
#ifndef TUNE_LAZY
#define TUNE_LAZY 0
#endif
#ifndef TUNE_TURNS
#define TUNE_TURNS 1
#endif
#ifndef TUNE_STAGES
#define TUNE_STAGES 2
#endif

namespace nanopd {

constexpr int kHeadDim = HEAD_DIM, kBlockSize = BLOCK_SIZE, kGroup = GROUP;
constexpr int kNumConsumers = 2, kWarpgroup = 128, kNumConsumerWarps = 4 * kNumConsumers;
constexpr int BLOCK_M = 64 * kNumConsumers;
#ifdef TUNE_N
constexpr int BLOCK_N = TUNE_N;
#else
constexpr int BLOCK_N = kHeadDim <= 128 ? 128 : 64;
#endif
constexpr int kNumStages = TUNE_STAGES;
constexpr int kTokens = BLOCK_M / kGroup;  // query tokens of a tile; the last BLOCK_M % kGroup rows stay empty
constexpr int kPanels = kHeadDim / kPanelColumns;
constexpr int kQueryPanel = BLOCK_M * kPanelRowBytes, kKeyPanel = BLOCK_N * kPanelRowBytes;  // bytes
constexpr int kBoxBytes = kBlockSize * kPanelRowBytes;                                       // one panel of one block
constexpr int kBoxes = BLOCK_N / kBlockSize * kPanels;                                       // of a tile of K or V

static_assert(kHeadDim % kPanelColumns == 0 && kHeadDim <= 256, "head dim must be 64, 128 or 256");
static_assert(kGroup >= 1 && kGroup <= BLOCK_M, "the heads of one group must fit the tile's rows");
static_assert(BLOCK_N % kBlockSize == 0 && kBlockSize % 8 == 0, "a key tile holds whole blocks, a block whole swizzle atoms");
static_assert(kBoxes <= 32, "each lane of the producer warp loads at most one box of a tile");

struct Shared {
    unsigned char query[kPanels * kQueryPanel];
    unsigned char keys[kNumStages][kPanels * kKeyPanel];
    unsigned char values[kNumStages][kPanels * kKeyPanel];
    Barrier keys_full[kNumStages], keys_empty[kNumStages], values_full[kNumStages], values_empty[kNumStages];
    Barrier tile_full, tile_empty;  // guard `query` and `tile`
    PrefillTile tile;               // seq is -1 after the last
};

// Position in a ring of stages: use i lies in stage i % kNumStages and ends that stage's phase i / kNumStages.
__device__ inline int stage_of(unsigned use) { return use % kNumStages; }
__device__ inline unsigned parity_of(unsigned use) { return use / kNumStages % 2; }

// Number of key tiles a query tile has to visit; at least one, so that the pipeline has no special case.
__device__ inline int num_key_tiles(const PrefillTile& tile) {
    const int last_token = min(tile.first_token + kTokens, tile.q_len) - 1;
    return max((tile.key_limit(last_token) + BLOCK_N - 1) / BLOCK_N, 1);
}

struct Producer {
    Shared& shared;
    const TensorMap& q_map;   // [T, Hq, D] in boxes of [kTokens, kGroup, 64]
    const TensorMap& kv_map;  // [num_blocks, 2 * Hk * BLOCK_SIZE, D] in boxes of [1, BLOCK_SIZE, 64]
    const int* block_tables;
    const int block_table_stride, num_kv_heads;
    const int lane = threadIdx.x % 32;
    const int box_block = lane / kPanels, box_panel = lane % kPanels;  // this lane's box within a key tile
    unsigned num_loaded = 0;                                           // key tiles so far, of all query tiles

    // The block that this lane's box of key tile n comes from; past the context -1, which TMA reads as zeros.
    __device__ int block_of(const PrefillTile& tile, int n) const {
        const int index = n * (BLOCK_N / kBlockSize) + box_block;
        const bool valid = n >= 0 && lane < kBoxes && index * kBlockSize < tile.context_len;
        return valid ? block_tables[static_cast<long long>(tile.seq) * block_table_stride + index] : -1;
    }

    __device__ void load(unsigned char* stage, Barrier* full, Barrier* empty, int head, int block) {
        barrier_wait(empty, parity_of(num_loaded) ^ 1);
        const bool skip = TUNE_NOLOAD && num_loaded >= 2;
        if (lane == 0) { if (skip) barrier_arrive(full); else barrier_arrive_expect(full, kPanels * kKeyPanel); }
        __syncwarp();
        if (lane < kBoxes && !skip)
            tma_load(stage + box_panel * kKeyPanel + box_block * kBoxBytes, kv_map, full, box_panel * kPanelColumns,
                     head * kBlockSize, block);
    }

    __device__ void load_keys(int head, int block) {
        const int s = stage_of(num_loaded);
        load(shared.keys[s], &shared.keys_full[s], &shared.keys_empty[s], head, block);
    }

    __device__ void load_values(int head, int block) {
        const int s = stage_of(num_loaded);
        load(shared.values[s], &shared.values_full[s], &shared.values_empty[s], num_kv_heads + head, block);
    }

    // Hands a tile to the consumers with its queries (seq -1: no more). Rows past the batch arrive as zeros.
    __device__ void publish(const PrefillTile& tile, unsigned tile_parity) {
        barrier_wait(&shared.tile_empty, tile_parity ^ 1);
        if (lane == 0) {
            shared.tile = tile;
            if (tile.seq < 0) barrier_arrive(&shared.tile_full);
            else barrier_arrive_expect(&shared.tile_full, kPanels * kTokens * kGroup * kPanelRowBytes);
        }
        __syncwarp();
        if (tile.seq >= 0 && lane < kPanels)
            tma_load(shared.query + lane * kQueryPanel, q_map, &shared.tile_full, lane * kPanelColumns, tile.kv_head * kGroup,
                     tile.q_start + tile.first_token);
    }

    __device__ void run(const int* cu_q_lens, const int* context_lens, int num_seqs, unsigned* counter) {
        const unsigned total = count_prefill_tiles(cu_q_lens, context_lens, num_seqs, kTokens, num_kv_heads);
        unsigned index = blockIdx.x, tile_parity = 0;
        PrefillTile tile;
        for (; index < total; tile_parity ^= 1) {
            find_prefill_tile(index, cu_q_lens, context_lens, num_seqs, kTokens, num_kv_heads, tile);
            // Each of the `total` tiles is followed by one draw, so the counter wraps to 0 by itself for the next launch.
            if (lane == 0) index = gridDim.x + atomicInc(counter, total - 1);
            int n = num_key_tiles(tile) - 1;
            int block = block_of(tile, n);
            load_keys(tile.kv_head, block);
            publish(tile, tile_parity);
            for (; n >= 0; --n) {
                const int next_block = block_of(tile, n - 1);
                load_values(tile.kv_head, block);
                ++num_loaded;
                block = next_block;
                if (n > 0) load_keys(tile.kv_head, block);
            }
            index = __shfl_sync(0xffffffff, index, 0);
        }
        tile.seq = -1;
        publish(tile, tile_parity);
    }
};

struct Consumer {
    Shared& shared;
    SCALAR* const out;
    const long long out_stride;
    const float scale_log2;
    const int warpgroup = threadIdx.x / kWarpgroup - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    unsigned num_used = 0;  // key tiles so far, of all query tiles

    // One arrival a warp: its lanes are past the reads (wgmma of the whole warpgroup read with it).
    __device__ void release(Barrier* empty) const {
        if (lane == 0) barrier_arrive(empty);
    }

    // The warpgroups issue matrix work in turn, so that the softmax of one runs under the products of the other.
    __device__ void turn_begin() const { named_barrier_sync(1 + warpgroup, 2 * kWarpgroup); }
    __device__ void turn_end() const { named_barrier_arrive(1 + (warpgroup + 1) % kNumConsumers, 2 * kWarpgroup); }

#if TUNE_QREG
    unsigned q_fragment[kHeadDim / 16][4];
    __device__ void load_queries() {
#pragma unroll
        for (int k = 0; k < kHeadDim / 16; ++k) {
            const int row = warpgroup * 64 + warp * 16 + lane % 16, chunk = k % 4 * 2 + lane / 16;
            ldmatrix_x4(q_fragment[k], shared_address(shared.query + k / 4 * kQueryPanel + row * kPanelRowBytes + (chunk ^ (row % 8)) * 16));
        }
    }
#endif
    __device__ void issue_scores(float (&scores)[BLOCK_N / 2], unsigned use) const {
        const auto q = panel_descriptor(shared.query + warpgroup * 64 * kPanelRowBytes);
        const auto k = panel_descriptor(shared.keys[stage_of(use)]);
        pin_registers(scores);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kHeadDim / 16; ++i) {
            const int inner = i % 4 * 32;
#if TUNE_QREG
            wgmma_registers_k<SCALAR, BLOCK_N>(scores, q_fragment[i], advanced(k, i / 4 * kKeyPanel + inner), i > 0);
            if (false)
#endif
            wgmma_shared<SCALAR, BLOCK_N>(scores, advanced(q, i / 4 * kQueryPanel + inner), advanced(k, i / 4 * kKeyPanel + inner), i > 0);
        }
        wgmma_commit();
    }

    __device__ void issue_output(float (&output)[kHeadDim / 2], const unsigned (&probabilities)[BLOCK_N / 16][4], unsigned use) const {
        constexpr int kColumns = kHeadDim < 128 ? kHeadDim : 128;  // of one instruction
        const auto v = panel_descriptor(shared.values[stage_of(use)], kKeyPanel);
        pin_registers(output);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < BLOCK_N / 16; ++i)
#pragma unroll
            for (int c = 0; c < kHeadDim / kColumns; ++c)
                wgmma_registers<SCALAR, kColumns>(output + c * kColumns / 2, probabilities[i],
                                                  advanced(v, c * kColumns / kPanelColumns * kKeyPanel + i * 16 * kPanelRowBytes), true);
        wgmma_commit();
    }

    // Zeroes the values between the end of the context and the end of its last block: their probability is 0, but an unused
    // slot of the cache may hold NaN. Every warpgroup does it for itself.
    __device__ void clear_tail(const PrefillTile& tile, int n) const {
        const int begin = tile.context_len - n * BLOCK_N;
        const int end = (begin + kBlockSize - 1) / kBlockSize * kBlockSize;
        if (begin >= BLOCK_N || begin == end) return;
        barrier_wait(&shared.values_full[stage_of(num_used)], parity_of(num_used));
        for (int i = threadIdx.x % kWarpgroup; i < (end - begin) * kPanels * 8; i += kWarpgroup) {
            const int row = begin + i / 8 / kPanels, panel = i / 8 % kPanels;
            auto* piece = reinterpret_cast<uint4*>(shared.values[stage_of(num_used)] + panel * kKeyPanel + row * kPanelRowBytes) + i % 8;
            *piece = make_uint4(0, 0, 0, 0);
        }
        async_proxy_fence();
        named_barrier_sync(1 + kNumConsumers + warpgroup, kWarpgroup);
    }

    __device__ void attend(const PrefillTile& tile) {
        const int n_last = num_key_tiles(tile) - 1;
        const int first_limit = tile.key_limit(tile.first_token);
        const int row = warpgroup * 64 + warp * 16 + lane / 4;
        const int key_limit[2] = {tile.key_limit(tile.first_token + row / kGroup), tile.key_limit(tile.first_token + (row + 8) / kGroup)};

        float output[kHeadDim / 2] = {}, scores[BLOCK_N / 2], correction[2];
        unsigned probabilities[BLOCK_N / 16][4];
        OnlineSoftmax softmax;

#if TUNE_QREG
        load_queries();
        release(&shared.tile_empty);
#endif
        barrier_wait(&shared.keys_full[stage_of(num_used)], parity_of(num_used));
        issue_scores(scores, num_used);
        wgmma_wait<0>();
        pin_registers(scores);
        release(&shared.keys_empty[stage_of(num_used)]);
        clear_tail(tile, n_last);
        mask_scores<BLOCK_N>(scores, n_last * BLOCK_N, key_limit);
        softmax.update<BLOCK_N>(scores, scale_log2, correction);
        pack_probabilities<SCALAR, BLOCK_N>(scores, probabilities);

        for (int n = n_last - 1; n >= 0; --n) {
            const unsigned use = num_used++, next = num_used;  // V of the tile before, K of this one
            barrier_wait(&shared.keys_full[stage_of(next)], parity_of(next));
            if (TUNE_TURNS) turn_begin();
            issue_scores(scores, next);
            barrier_wait(&shared.values_full[stage_of(use)], parity_of(use));
            issue_output(output, probabilities, use);
            if (TUNE_TURNS) turn_end();
            wgmma_wait<1>();
            pin_registers(scores);
            release(&shared.keys_empty[stage_of(next)]);
            if ((n + 1) * BLOCK_N > first_limit) mask_scores<BLOCK_N>(scores, n * BLOCK_N, key_limit);
            if (!TUNE_NOSOFT) softmax.update<BLOCK_N>(scores, scale_log2, correction);
#if TUNE_PIN
            // The exponentials belong under the running products, but ptxas would sink them below the wait. An arrival that
            // depends on their sum, and that never happens as the sum is never negative, stays above it.
            if (softmax.row_sum[0] + softmax.row_sum[1] < 0.f) barrier_arrive(&shared.tile_full);
#endif
            wgmma_wait<0>();
            pin_registers(output);
            release(&shared.values_empty[stage_of(use)]);
#if TUNE_LAZY
            if (__any_sync(0xffffffff, correction[0] != 1.f || correction[1] != 1.f)) scale_rows(output, correction);
#else
            scale_rows(output, correction);
#endif
            pack_probabilities<SCALAR, BLOCK_N>(scores, probabilities);
        }

#if !TUNE_QREG
        release(&shared.tile_empty);
#endif
        const unsigned use = num_used++;
        barrier_wait(&shared.values_full[stage_of(use)], parity_of(use));
        issue_output(output, probabilities, use);
        softmax.finish(correction);
        wgmma_wait<0>();
        pin_registers(output);
        release(&shared.values_empty[stage_of(use)]);
        scale_rows(output, correction);
        store(tile, row, output);
    }

    __device__ void store(const PrefillTile& tile, int row, const float (&output)[kHeadDim / 2]) const {
        SCALAR* row_out[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int token = (row + 8 * r) / kGroup, head = tile.kv_head * kGroup + (row + 8 * r) % kGroup;
            const long long t = tile.q_start + tile.first_token + token;
            row_out[r] = token < min(kTokens, tile.q_len - tile.first_token) ? out + t * out_stride + head * kHeadDim : nullptr;
        }
        store_rows<SCALAR, kHeadDim>(output, row_out);
    }

    __device__ void run() {
        if (TUNE_TURNS && warpgroup == 1) turn_end();  // the first turn is warpgroup 0's
        for (unsigned tile_parity = 0;; tile_parity ^= 1) {
            barrier_wait(&shared.tile_full, tile_parity);
            const PrefillTile tile = shared.tile;
            if (tile.seq < 0) return;
            attend(tile);
        }
    }
};

}  // namespace nanopd

extern "C" __global__ void __launch_bounds__(384, 1) sm90_paged_prefill_kernel(
    const __grid_constant__ nanopd::TensorMap q_map, const __grid_constant__ nanopd::TensorMap kv_map,
    const int* __restrict__ block_tables,  // [B, M], rows block_table_stride apart
    const int* __restrict__ cu_q_lens,     // [B + 1]
    const int* __restrict__ context_lens,  // [B]
    SCALAR* __restrict__ out,              // [T, Hq, D], rows out_stride apart
    unsigned* counter,                     // one, 0 before and after
    long long out_stride, int block_table_stride, int num_seqs, int num_kv_heads, float scale_log2) {
    using namespace nanopd;
    extern __shared__ unsigned char raw[];
    auto& shared = *reinterpret_cast<Shared*>(raw + (-shared_address(raw) & (kSwizzleAtom - 1)));

    if (threadIdx.x == 0) {
        for (int s = 0; s < kNumStages; ++s) {
            barrier_init(&shared.keys_full[s], 1);
            barrier_init(&shared.values_full[s], 1);
            barrier_init(&shared.keys_empty[s], kNumConsumerWarps);
            barrier_init(&shared.values_empty[s], kNumConsumerWarps);
        }
        barrier_init(&shared.tile_full, 1);
        barrier_init(&shared.tile_empty, kNumConsumerWarps);
        barrier_init_fence();
        tma_prefetch(q_map);
        tma_prefetch(kv_map);
    }
    __syncthreads();
    wait_for_predecessor();
    let_successor_start();

    if (threadIdx.x < kWarpgroup) {
        release_registers<TUNE_PREG>();
        if (threadIdx.x < 32)
            Producer{shared, q_map, kv_map, block_tables, block_table_stride, num_kv_heads}.run(cu_q_lens, context_lens, num_seqs, counter);
    } else {
        claim_registers<TUNE_CREG>();
        Consumer{shared, out, out_stride, scale_log2}.run();
    }
}
