// Attention of one new token a sequence over its paged KV: split over the context, reduced in the same launch.
//
// Macros: SCALAR (__nv_bfloat16 | __half), HEAD_DIM (64 | 128 | 256), HEAD_TILES (query heads of a kv head / 8, rounded up),
// TILE_KEYS (16 | 32), NUM_WARPS, NUM_STAGES.
//
// Decode reads every key and value once and does next to nothing with them, so all that counts is to keep many bytes in
// flight. Each warp owns a ring of NUM_STAGES tiles in shared memory, filled by cp.async, and its own softmax state
// (decode_warp.cuh): in the main loop no warp waits for another. The warps of a CTA merge their states at the end of an item;
// CTAs that share an item leave partial results in global memory, and the last to finish combines them (decode_schedule.cuh
// says who computes what).
#include <nanopd/cp_async.cuh>
#include <nanopd/decode_schedule.cuh>
#include <nanopd/decode_warp.cuh>
#include <nanopd/math.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/scalar.cuh>

using namespace nanopd;

constexpr int kThreads = NUM_WARPS * 32;
constexpr int kHeads = HEAD_TILES * 8;          // columns, of which `group` are real
constexpr int kRowBytes = HEAD_DIM * 2;
constexpr int kTileBytes = TILE_KEYS * kRowBytes;  // of K; V follows
constexpr int kStageBytes = 2 * kTileBytes;
constexpr int kRingBytes = NUM_STAGES * kStageBytes;
constexpr int kLookupKeys = 8;  // one block id covers at least this many keys (the smallest block size)
constexpr int kLookups = TILE_KEYS / kLookupKeys;
constexpr int kVecs = HEAD_DIM / 4;  // float4 a head
static_assert(HEAD_DIM == 64 || HEAD_DIM == 128 || HEAD_DIM == 256, "unsupported head dim");
static_assert(HEAD_TILES == 1 || HEAD_TILES == 2, "1 to 16 query heads a kv head");
static_assert(TILE_KEYS % 16 == 0 && 32 % kLookups == 0, "a tile is whole mma steps, a warp's lanes hold whole tiles' ids");
static_assert(kHeads * HEAD_DIM * 4 <= kStageBytes, "a warp's output must fit the stage it has just used");

using WorkItem = Item<TILE_KEYS>;
using Warp = DecodeWarp<SCALAR, HEAD_DIM, HEAD_TILES, TILE_KEYS>;

struct Params {
    const SCALAR* q;          // [B, Hq, D], rows q_row_stride apart
    const SCALAR* kv;         // [num_blocks, 2, Hk, block_size, D], blocks kv_block_stride apart
    const int* block_tables;  // [B, M], rows table_stride apart
    const int* context_lens;  // [B]; 0 is padding, whose rows of out stay as they are
    SCALAR* out;              // [B, Hq, D], rows out_row_stride apart
    float* lse;               // [B, Hq] log of the sum of exponentials, or null
    float4* partial_out;      // [2 * CTAs, group, D / 4]
    float2* partial_state;    // [2 * CTAs, group] (maximum, sum)
    int* arrivals;            // [CTAs] zero before and after
    long long q_row_stride, out_row_stride, kv_block_stride;
    int num_seqs, num_q_heads, num_kv_heads, group, block_shift, table_stride, min_tiles;
    float scale_log2;  // softmax scale times log2(e)
};

struct Shared {
    float max[NUM_WARPS][kHeads], sum[NUM_WARPS][kHeads];
    int merge_stage[NUM_WARPS];
    int scan[NUM_WARPS];
    Plan plan;
    WorkItem items[2];  // that this CTA shares with others
    int is_last[2];
};

// Walks this warp's tiles ahead of the computation and starts their copies.
struct Loader {
    WorkItem item;
    int tile, end;     // next of this warp's tiles, and where the CTA's piece ends
    int ids_tile;      // the tile that lane 0's block id belongs to; -1: none looked up
    int block_id;      // of lane / kLookups-th tile from there, its (lane % kLookups)-th 8 keys
    unsigned long long policy;

    __device__ void look_up(const Params& p) {
        ids_tile = tile;
        const int lane = threadIdx.x % 32;
        const int key = (tile - item.begin + lane / kLookups * NUM_WARPS) * TILE_KEYS + lane % kLookups * kLookupKeys;
        const int* table = p.block_tables + static_cast<long long>(item.seq) * p.table_stride;
        block_id = key < item.context_len ? table[key >> p.block_shift] : 0;
    }

    // Starts the copy of the next tile, if there is one, into `stage`; always commits a group.
    __device__ void issue(const Params& p, unsigned stage) {
        if (tile < end) {
            if (tile >= item.end) {
                item.advance_to(tile, p.context_lens, p.num_kv_heads);
                ids_tile = -1;
            }
            if (ids_tile < 0 || tile - ids_tile >= 32 / kLookups * NUM_WARPS) look_up(p);
            if (tile == item.end - 1) wait_for_predecessor();  // it wrote the newest token
            copy(p, stage, (tile - item.begin) * TILE_KEYS, (tile - ids_tile) / NUM_WARPS * kLookups);
            tile += NUM_WARPS;
        }
        cp_async_commit();
    }

    __device__ void copy(const Params& p, unsigned stage, int first_key, int first_lookup) {
        constexpr int kPieces = kRowBytes / 16, kSteps = kLookupKeys * kPieces / 32;
        const int lane = threadIdx.x % 32, block_size = 1 << p.block_shift;
        const long long value_offset = static_cast<long long>(p.num_kv_heads) * block_size * HEAD_DIM;
#pragma unroll
        for (int i = 0; i < kLookups; ++i) {
            const int key = first_key + i * kLookupKeys;
            const int id = __shfl_sync(kFullWarp, block_id, first_lookup + i);
            const SCALAR* source = p.kv + id * p.kv_block_stride +
                                   (item.kv_head * block_size + (key & (block_size - 1))) * HEAD_DIM + lane * 8;
#pragma unroll
            for (int step = 0; step < kSteps; ++step) {
                const int row = (step * 32 + lane) / kPieces, piece = (step * 32 + lane) % kPieces;
                const unsigned target = stage + (i * kLookupKeys + row) * kRowBytes + swizzled_piece(row, piece);
                const bool valid = key + row < item.context_len;  // past the end zeros: what lies there may be NaN
                cp_async_16(target, source + step * 256, valid, policy);
                cp_async_16(target + kTileBytes, source + value_offset + step * 256, valid, policy);
            }
        }
    }
};

// Where a head's dimension lies in a warp's merge buffer: shifted by 8 floats every two heads, so that the fragment's lanes
// write to different banks.
__device__ __forceinline__ int merge_offset(int head, int dim) {
    return head * HEAD_DIM + (dim + head / 2 * 8) % HEAD_DIM;
}

__device__ __forceinline__ void publish(const Warp& state, Shared& shared, float* buffer, int stage, bool has_tiles) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int h = 0; h < HEAD_TILES; ++h) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const float sum = sum_over_rows(state.sum[h][c]);
            if (g == 0) {
                shared.max[warp][h * 8 + 2 * t + c] = state.max[h][c];
                shared.sum[warp][h * 8 + 2 * t + c] = sum;
            }
        }
        if (has_tiles) {
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 16; ++i)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    buffer[merge_offset(h * 8 + 2 * t + e % 2, i * 16 + g + e / 2 * 8)] = state.out[h][i][e];
        }
    }
    if (lane == 0) shared.merge_stage[warp] = stage;
}

__device__ __forceinline__ void accumulate(float4& total, const float4& part, float weight) {
    total.x += weight * part.x, total.y += weight * part.y, total.z += weight * part.z, total.w += weight * part.w;
}

__device__ __forceinline__ void write_out(const Params& p, const WorkItem& item, int head, int vec, const float4& total, float max,
                                          float sum) {
    const int q_head = item.kv_head * p.group + head;
    const float inverse = 1.f / sum;
    reinterpret_cast<uint2*>(p.out + item.seq * p.out_row_stride + q_head * HEAD_DIM)[vec] =
        make_uint2(Pair<SCALAR>::pack(total.x * inverse, total.y * inverse), Pair<SCALAR>::pack(total.z * inverse, total.w * inverse));
    if (p.lse != nullptr && vec == 0) p.lse[item.seq * p.num_q_heads + q_head] = (max + __log2f(sum)) * kLn2;
}

// All warps' states into the output if the CTA has the whole item, else into partial results at `slot`.
__device__ __forceinline__ void merge_warps(const Params& p, const WorkItem& item, const Shared& shared, const char* ring, bool whole,
                                            int slot) {
    for (int i = threadIdx.x; i < p.group * kVecs; i += kThreads) {
        const int head = i / kVecs, vec = i % kVecs;
        float max = -INFINITY, sum = 0.f;
#pragma unroll
        for (int w = 0; w < NUM_WARPS; ++w) max = fmaxf(max, shared.max[w][head]);
        float4 total = {};
#pragma unroll
        for (int w = 0; w < NUM_WARPS; ++w) {
            const float weight = exp2_approx(shared.max[w][head] - max);
            if (weight == 0.f) continue;  // a warp without tiles has written nothing
            const char* buffer = ring + w * kRingBytes + shared.merge_stage[w] * kStageBytes;
            accumulate(total, *reinterpret_cast<const float4*>(buffer + merge_offset(head, vec * 4) * 4), weight);
            sum += weight * shared.sum[w][head];
        }
        if (whole) {
            write_out(p, item, head, vec, total, max, sum);
        } else {
            p.partial_out[(slot * p.group + head) * kVecs + vec] = total;
            if (vec == 0) p.partial_state[slot * p.group + head] = make_float2(max, sum);
        }
    }
}

// What this CTA wrote before (and a CTA barrier made known to this thread) is visible to whoever counts after it.
__device__ __forceinline__ int atomic_add_ordered(int* counter, int value) {
    int before;
    asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(value) : "memory");
    return before;
}

__device__ __forceinline__ int num_parts(const WorkItem& item, const Split& split) {
    return split.owner(item.end - 1) - split.owner(item.begin) + 1;
}

// The partial results of an item, all written, into its output.
__device__ __forceinline__ void combine(const Params& p, const WorkItem& item, const Split& split) {
    const int first = split.owner(item.begin), count = num_parts(item, split);
    const int first_slot = 2 * first + (split.begin(first) < item.begin);
    for (int i = threadIdx.x; i < p.group * kVecs; i += kThreads) {
        const int head = i / kVecs;
        constexpr int kBatch = 16;  // partial results on their way at once
        float max = -INFINITY, sum = 0.f;
        float4 total = {};
        for (int base = 0; base < count; base += kBatch) {
            float2 state[kBatch];
            float4 part[kBatch];
            float highest = max;
#pragma unroll
            for (int j = 0; j < kBatch; ++j) {
                const int slot = base + j == 0 ? first_slot : 2 * (first + base + j);
                const bool exists = base + j < count;
                state[j] = exists ? __ldcg(p.partial_state + slot * p.group + head) : make_float2(-INFINITY, 0.f);
                part[j] = exists ? __ldcg(p.partial_out + slot * p.group * kVecs + i) : float4{};
            }
#pragma unroll
            for (int j = 0; j < kBatch; ++j) highest = fmaxf(highest, state[j].x);
            const float correction = exp2_approx(max - highest);
            total.x *= correction, total.y *= correction, total.z *= correction, total.w *= correction;
            sum *= correction;
            max = highest;
#pragma unroll
            for (int j = 0; j < kBatch; ++j) {
                const float weight = exp2_approx(state[j].x - max);
                accumulate(total, part[j], weight);
                sum += weight * state[j].y;
            }
        }
        write_out(p, item, head, i % kVecs, total, max, sum);
    }
}

// A CTA shares at most the first and the last of its items with others. When all its partial results are written it counts
// itself in for each, and combines those for which it is the last. Doing this once, at the end, keeps the round trips to
// memory out of the stream of tiles. Counters return to zero by themselves.
__device__ __forceinline__ void finish_shared_items(const Params& p, int num_items, const Split& split, Shared& shared) {
    const int me = threadIdx.x;
    if (me < num_items) {
        const WorkItem& item = shared.items[me];
        int* counter = p.arrivals + split.owner(item.begin);
        shared.is_last[me] = atomic_add_ordered(counter, 1) == num_parts(item, split) - 1;
        if (shared.is_last[me]) *counter = 0;
    }
    __syncthreads();
    for (int i = 0; i < num_items; ++i)
        if (shared.is_last[i]) combine(p, shared.items[i], split);
}

// Reads, before the predecessor has finished, context_lens, block_tables and all KV but each sequence's last tile: no kernel that may
// still run, back to the last one launched without programmatic dependent launch, may write them.
extern "C" __global__ void __launch_bounds__(kThreads, 1) paged_decode_kernel(const __grid_constant__ Params p) {
    extern __shared__ __align__(128) char ring[];  // [NUM_WARPS, NUM_STAGES, (K, V), TILE_KEYS, D]
    __shared__ Shared shared;
    const int warp = threadIdx.x / 32;
    let_successor_start();  // a projection, whose first weights come while this kernel computes, where shared memory holds both
    const Plan plan = make_plan<TILE_KEYS, kThreads>(p.context_lens, p.num_seqs, p.num_kv_heads, p.min_tiles, shared.scan, &shared.plan);
    const Split split(plan.total, plan.num_ctas);
    const int begin = split.begin(blockIdx.x), end = blockIdx.x < plan.num_ctas ? split.begin(blockIdx.x + 1) : begin;

    if (begin < end) {
        WorkItem item;
        item.start_sequence(p.context_lens, plan.seq, plan.seq_begin);
        item.advance_to(begin, p.context_lens, p.num_kv_heads);
        char* const stages = ring + warp * kRingBytes;
        Loader loader{item, begin + warp, end, -1, 0, evict_first_policy()};
        for (int s = 0; s < NUM_STAGES; ++s) loader.issue(p, shared_address(stages) + s * kStageBytes);
        wait_for_predecessor();

        int num_shared = 0;
        int tile = begin + warp, stage = 0, used_stage = -1;  // used_stage: computed on, not refilled yet
        while (true) {
            Warp state;
            state.start(p.q + item.seq * p.q_row_stride + item.kv_head * p.group * HEAD_DIM, p.group);
            const int item_end = min(item.end, end);
            const bool has_tiles = tile < item_end;
            for (; tile < item_end; tile += NUM_WARPS) {
                if (used_stage >= 0) loader.issue(p, shared_address(stages) + used_stage * kStageBytes);
                cp_async_wait<NUM_STAGES - 1>();
                __syncwarp();
                const int num_keys = item.context_len - (tile - item.begin) * TILE_KEYS;
                const unsigned keys = shared_address(stages) + stage * kStageBytes;
                state.attend(keys, keys + kTileBytes, num_keys, p.scale_log2);
                __syncwarp();
                used_stage = stage;
                stage = stage + 1 == NUM_STAGES ? 0 : stage + 1;
            }
            // The stage just used serves as the warp's merge buffer; the others go on filling meanwhile.
            publish(state, shared, reinterpret_cast<float*>(stages + used_stage * kStageBytes), used_stage, has_tiles);
            __syncthreads();
            const bool whole = item.begin >= begin && item.end <= end;
            merge_warps(p, item, shared, ring, whole, 2 * blockIdx.x + (item.begin > begin));
            __syncthreads();
            if (has_tiles) {
                loader.issue(p, shared_address(stages) + used_stage * kStageBytes);
                used_stage = -1;
            }
            if (!whole) {
                if (threadIdx.x == num_shared) shared.items[num_shared] = item;  // thread i counts item i in
                ++num_shared;
            }
            if (item_end == end) break;
            item.advance_to(item_end, p.context_lens, p.num_kv_heads);
        }
        finish_shared_items(p, num_shared, split, shared);
    }

    wait_for_predecessor();  // without work too: the successor relies on what lies before this kernel being over
}
