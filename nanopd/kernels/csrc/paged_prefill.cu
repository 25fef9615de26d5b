// Causal attention of chunks of new tokens on paged context, for any GPU from compute capability 8.0.
//
// FlashAttention-2 (Dao, arXiv 2307.08691) on mma.m16n8k16: a CTA holds 64 rows (query tokens times the query heads of one
// kv head) in registers and walks over the keys, two tiles of K and V in flight through cp.async.
//
// Macros: SCALAR (__nv_bfloat16 | __half), HEAD_DIM (64 | 128 | 256), BLOCK_SIZE (8 | 16 | 32 | 64), GROUP (query heads a
// kv head), BLOCK_N (keys of a tile: 32 | 64).
#include <nanopd/cp_async.cuh>
#include <nanopd/mma.cuh>
#include <nanopd/online_softmax.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/prefill_tile.cuh>

namespace nanopd {

constexpr int kHeadDim = HEAD_DIM, kBlockSize = BLOCK_SIZE, kGroup = GROUP;
constexpr int kNumWarps = 4, kNumThreads = 32 * kNumWarps;
constexpr int BLOCK_M = 16 * kNumWarps;
constexpr int kNumStages = 2;
constexpr int kTokens = BLOCK_M / kGroup;   // query tokens of a tile; the last BLOCK_M % kGroup rows stay empty
constexpr int kChunks = kHeadDim / 8;       // 16-byte pieces of a row
constexpr int kTileSize = BLOCK_N * kHeadDim;

static_assert(kHeadDim % 64 == 0 && kHeadDim <= 256, "head dim must be 64, 128, 192 or 256");
static_assert(kGroup >= 1 && kGroup <= BLOCK_M, "the heads of one group must fit the tile's rows");

// Offset of a 16-byte piece in a tile of rows: the xor spreads the 8 rows an ldmatrix reads over all 32 banks.
__device__ inline int swizzled(int row, int chunk) { return row * kHeadDim + (chunk ^ (row % 8)) * 8; }

// Starts loading BLOCK_N keys (or values) from `first_key`; those past the context become zeros, so that whatever an
// unused slot of the cache holds cannot reach the sums.
__device__ inline void load_keys(SCALAR* tile, const SCALAR* kv, long long block_stride, const int* block_table,
                                 int first_key, int context_len) {
#pragma unroll
    for (int i = threadIdx.x; i < BLOCK_N * kChunks; i += kNumThreads) {
        const int row = i / kChunks, chunk = i % kChunks, key = first_key + row;
        const bool valid = key < context_len;
        const long long block = valid ? block_table[key / kBlockSize] : 0;
        const SCALAR* source = kv + block * block_stride + key % kBlockSize * kHeadDim + chunk * 8;
        cp_async_16(shared_address(tile + swizzled(row, chunk)), source, valid);
    }
}

}  // namespace nanopd

extern "C" __global__ void __launch_bounds__(128) paged_prefill_kernel(
    const SCALAR* __restrict__ q,                // [T, Hq, D], rows q_stride apart
    const SCALAR* __restrict__ kv,               // [num_blocks, 2, Hk, BLOCK_SIZE, D], blocks kv_block_stride apart
    const int* __restrict__ block_tables,        // [B, M], rows block_table_stride apart
    const int* __restrict__ cu_q_lens,           // [B + 1]
    const int* __restrict__ context_lens,        // [B]
    SCALAR* __restrict__ out,                    // [T, Hq, D], rows out_stride apart
    long long q_stride, long long out_stride, long long kv_block_stride, int block_table_stride, int num_seqs,
    int num_kv_heads, float scale_log2) {
    using namespace nanopd;
    extern __shared__ __align__(128) SCALAR shared[];
    SCALAR* const keys = shared;                               // [kNumStages][BLOCK_N][D]
    SCALAR* const values = shared + kNumStages * kTileSize;    // [kNumStages][BLOCK_N][D]

    wait_for_predecessor();
    let_successor_start();
    PrefillTile tile;
    if (!find_prefill_tile(blockIdx.x, cu_q_lens, context_lens, num_seqs, kTokens, num_kv_heads, tile)) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int num_tokens = min(kTokens, tile.q_len - tile.first_token);
    const int first_limit = tile.key_limit(tile.first_token);
    const int num_tiles = (max(tile.key_limit(tile.first_token + num_tokens - 1), 1) + BLOCK_N - 1) / BLOCK_N;
    const int* block_table = block_tables + static_cast<long long>(tile.seq) * block_table_stride;
    const SCALAR* k_head = kv + tile.kv_head * (kBlockSize * kHeadDim);
    const SCALAR* v_head = k_head + num_kv_heads * (kBlockSize * kHeadDim);

    // The two rows of this lane: which token and head they are, how far they see.
    const SCALAR* q_row[2];
    SCALAR* out_row[2];
    int key_limit[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = warp * 16 + lane / 4 + 8 * r, token = row / kGroup, head = tile.kv_head * kGroup + row % kGroup;
        const bool valid = token < num_tokens;
        const long long t = tile.q_start + tile.first_token + (valid ? token : 0);
        q_row[r] = q + t * q_stride + head * kHeadDim;
        out_row[r] = valid ? out + t * out_stride + head * kHeadDim : nullptr;
        key_limit[r] = tile.key_limit(tile.first_token + token);
    }

    load_keys(keys, k_head, kv_block_stride, block_table, 0, tile.context_len);
    cp_async_commit();
    load_keys(values, v_head, kv_block_stride, block_table, 0, tile.context_len);
    cp_async_commit();

    unsigned q_fragment[kHeadDim / 16][4];
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            q_fragment[k][i] = *reinterpret_cast<const unsigned*>(q_row[i % 2] + 16 * k + i / 2 * 8 + lane % 4 * 2);

    float output[kHeadDim / 2] = {};
    OnlineSoftmax softmax;
    // ldmatrix.x4 reads four 8 x 8 matrices, lane l naming row l % 8 of matrix l / 8.
    const int k_row = lane / 16 * 8 + lane % 8, k_chunk = lane / 8 % 2;
    const int v_row = lane / 8 % 2 * 8 + lane % 8, v_chunk = lane / 16;

    for (int n = 0; n < num_tiles; ++n) {
        const SCALAR* k_tile = keys + n % kNumStages * kTileSize;
        const SCALAR* v_tile = values + n % kNumStages * kTileSize;
        cp_async_wait<1>();  // K of this tile; its V may still be on the way
        __syncthreads();     // ... for every thread, and the stage the next load overwrites has been read by all
        if (n + 1 < num_tiles)
            load_keys(keys + (n + 1) % kNumStages * kTileSize, k_head, kv_block_stride, block_table,
                      (n + 1) * BLOCK_N, tile.context_len);
        cp_async_commit();

        float scores[BLOCK_N / 2] = {};
#pragma unroll
        for (int k = 0; k < kHeadDim / 16; ++k) {
#pragma unroll
            for (int j = 0; j < BLOCK_N / 16; ++j) {
                unsigned b[4];
                ldmatrix_x4(b, shared_address(k_tile + swizzled(16 * j + k_row, 2 * k + k_chunk)));
                mma_m16n8k16<SCALAR>(&scores[8 * j], q_fragment[k], b[0], b[1]);
                mma_m16n8k16<SCALAR>(&scores[8 * j + 4], q_fragment[k], b[2], b[3]);
            }
        }
        if ((n + 1) * BLOCK_N > first_limit) mask_scores<BLOCK_N>(scores, n * BLOCK_N, key_limit);
        float correction[2];
        softmax.raise_max<BLOCK_N>(scores, scale_log2, correction);
        softmax.exponentiate<BLOCK_N>(scores, scale_log2);
        scale_rows(output, correction);
        unsigned probabilities[BLOCK_N / 16][4];
        pack_probabilities<SCALAR, BLOCK_N>(scores, probabilities);

        cp_async_wait<1>();  // V of this tile
        __syncthreads();
        if (n + 1 < num_tiles)
            load_keys(values + (n + 1) % kNumStages * kTileSize, v_head, kv_block_stride, block_table,
                      (n + 1) * BLOCK_N, tile.context_len);
        cp_async_commit();
#pragma unroll
        for (int k = 0; k < BLOCK_N / 16; ++k) {
#pragma unroll
            for (int j = 0; j < kHeadDim / 16; ++j) {
                unsigned b[4];
                ldmatrix_x4_transposed(b, shared_address(v_tile + swizzled(16 * k + v_row, 2 * j + v_chunk)));
                mma_m16n8k16<SCALAR>(&output[8 * j], probabilities[k], b[0], b[1]);
                mma_m16n8k16<SCALAR>(&output[8 * j + 4], probabilities[k], b[2], b[3]);
            }
        }
    }

    float normaliser[2];
    softmax.finish(normaliser);
    scale_rows(output, normaliser);
    store_rows<SCALAR, kHeadDim>(output, out_row);
}
