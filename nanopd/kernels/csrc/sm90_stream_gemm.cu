// y[M, N] = x[M, K] w[N, K]^T for tens and hundreds of rows of x: the weights streamed through wgmma, K split over a cluster.
//
// Macros: SCALAR (__nv_bfloat16 | __half), EPILOGUE (0: store | 1: silu(gate) * up | 2: store float32),
//         X_ROWS (of x a tile: 64 | 128 | 192 | 256), ROWS (of w a tile: 32 | 64 | 96 | 128 | 160 | 192), CLUSTER (1 | 2 | 4 | 8), STAGES.
//
// 64 rows of x are wgmma's A, all rows of the tile its B, both by TMA into a ring of stages of 64 along K. A warp produces; each
// warpgroup multiplies 64 rows of x, or twice 64. The CTAs of a cluster take the same tile and a share of K each; at the end every CTA brings its
// sums to the CTAs that finish them, a share of the tile each, added up in the order of the ranks.
//
// Under programmatic dependent launch the ring's weights are on their way before the previous kernel ends; only x waits for it.
#include <nanopd/cluster.cuh>
#include <nanopd/math.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/scalar.cuh>
#include <nanopd/sm90_tma.cuh>
#include <nanopd/sm90_warpgroup.cuh>
#include <nanopd/sm90_wgmma.cuh>

using namespace nanopd;

enum Epilogue { kStore = 0, kSiluMul = 1, kStoreFloat = 2 };

using SplitK = Cluster<CLUSTER>;

constexpr int kEpilogue = EPILOGUE;
constexpr int kXRows = X_ROWS;
using Out = Either<EPILOGUE == kStoreFloat, float, SCALAR>;
constexpr int kRows = ROWS;
constexpr int kSplits = CLUSTER;
constexpr int kNumStages = STAGES;
constexpr int kStageK = 64;
constexpr int kGroups = kXRows == 256 ? 2 : kXRows / 64;  // of warps that multiply
constexpr int kPasses = kXRows / 64 / kGroups;     // of 64 rows of x that each takes
constexpr int kSums = kRows / 2;                   // that a thread holds of a pass
constexpr int kConsumers = kGroups == 3 ? 384 : 256;  // threads that multiply (with 64 rows half of them) and store; the next one copies
constexpr int kThreads = kConsumers + (kPasses == 1 ? 32 : 128);  // registers change hands between whole warpgroups
constexpr int kConsumersBarrier = 1;
constexpr int kBoxes = kEpilogue == kSiluMul ? 2 : 1;
constexpr int kOutRows = kRows / kBoxes;           // of a tile: kSiluMul puts gate rows over their up rows
constexpr int kShareRows = kOutRows / kSplits;     // that one CTA of the cluster finishes
constexpr int kPitch = kBoxes * kShareRows + 8;    // floats; keeps the rows of a fragment on different banks
static_assert(kXRows == kGroups * kPasses * 64 && kGroups * 128 <= kConsumers && kRows % 32 == 0 && kShareRows % 8 == 0);

struct Params {
    TensorMap w;           // [N, K] in boxes of [kOutRows, 64]; for kSiluMul the gate rows, then the up rows
    TensorMap x;           // [M, K] in boxes of [x_box_rows, 64]
    const SCALAR* bias;    // [N] or null
    Out* out;              // [M, N], or [M, N / 2] for kSiluMul
    int m, n, k;
    int x_tiles;           // of x; they come one after the other for each tile of w, which is then in L2
    int x_box_rows;        // kXRows, or M if that is less: rows past M would be filled with zeros, which takes time
    int trigger_stages;    // the successor may start when so many stages are left to be copied
};

struct Stage {
    alignas(1024) char w[kRows * 128];
    char x[kXRows * 128];  // what lies past M is not written: its products are not stored
};

struct Sums {  // over a share of K, of the part of the tile that one CTA finishes; for kSiluMul gate columns, then up columns
    float at[kXRows][kPitch];
};

union Memory {
    Stage ring[kNumStages];
    Sums own;  // once the ring is done with
};

struct Shared {
    Memory memory;
    Barrier full[kNumStages], empty[kNumStages];
};

// After Shared: what the other CTAs of the cluster bring, in the order of their ranks.
__device__ inline Sums* inbox(Shared& shared, int owner, int from) {
    return reinterpret_cast<Sums*>(&shared + 1) + (from - (from > owner));
}

struct Tile {  // of x and w, by number
    int x, w;

    __device__ explicit Tile(const Params& p) {
        const int number = blockIdx.x / kSplits;
        w = number / p.x_tiles;
        x = number - w * p.x_tiles;
    }
};

struct Range {  // of stages along K, this CTA's share
    int first, count;

    __device__ explicit Range(const Params& p) {
        const int total = p.k / kStageK, rank = SplitK::rank();
        first = rank * total / kSplits;
        count = (rank + 1) * total / kSplits - first;
    }
};

__device__ inline void load_weights(const Params& p, const Tile& tile, const Range& range, int i, Shared& shared) {
    const int slot = i % kNumStages;
    barrier_arrive_expect(&shared.full[slot], sizeof(Stage::w) + p.x_box_rows * 128);
#pragma unroll
    for (int box = 0; box < kBoxes; ++box)
        tma_load_3d(shared.memory.ring[slot].w + box * kOutRows * 128, p.w, &shared.full[slot], (range.first + i) * kStageK,
                    tile.w * kOutRows + box * (p.n / 2), 0);
}

__device__ inline void load_x(const Params& p, const Tile& tile, const Range& range, int i, Shared& shared) {
    const int slot = i % kNumStages;
    tma_load_3d(shared.memory.ring[slot].x, p.x, &shared.full[slot], (range.first + i) * kStageK, tile.x * kXRows, 0);
}

// One thread, before the previous kernel has ended: weights as far as the ring reaches.
__device__ inline void fill_ring(const Params& p, const Tile& tile, const Range& range, Shared& shared) {
    const int early = min(kNumStages, range.count);
    for (int i = 0; i < early; ++i) load_weights(p, tile, range, i, shared);
}

// The same thread, for all the rest.
__device__ inline void produce(const Params& p, const Tile& tile, const Range& range, Shared& shared) {
    const int early = min(kNumStages, range.count), trigger = max(0, range.count - p.trigger_stages);
    wait_for_predecessor();
    for (int i = 0; i < early; ++i) load_x(p, tile, range, i, shared);
    if (trigger <= early) let_successor_start();
    for (int i = early; i < range.count; ++i) {
        if (i == trigger) let_successor_start();
        barrier_wait(&shared.empty[i % kNumStages], (i / kNumStages - 1) & 1);
        load_weights(p, tile, range, i, shared);
        load_x(p, tile, range, i, shared);
    }
}

__device__ inline void pin_sums(float (&acc)[kPasses][kSums]) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) pin_registers(acc[pass]);
}

__device__ inline void multiply(const Range& range, Shared& shared, float (&acc)[kPasses][kSums]) {
    const int group = threadIdx.x / 128;
    pin_sums(acc);
    for (int i = 0; i < range.count; ++i) {
        const int slot = i % kNumStages;
        barrier_wait(&shared.full[slot], i / kNumStages & 1);
        const Stage& stage = shared.memory.ring[slot];
        const unsigned long long a = operand_descriptor(stage.x + group * kPasses * 64 * 128, kAtomBytes);
        const unsigned long long b = operand_descriptor(stage.w, kAtomBytes);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < kStageK / 16; ++step)
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass)
                wgmma_shared<SCALAR, kRows>(acc[pass], advanced(a, pass * 64 * 128 + step * 32), advanced(b, step * 32), i > 0 || step > 0);
        wgmma_commit();
        wgmma_wait<1>();  // the stage before
        if (i > 0 && threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[(i - 1) % kNumStages]);
    }
    wgmma_wait<0>();
    pin_sums(acc);
}

// Of x, the first of the two whose sums this thread holds after a pass; the other is 8 further on.
__device__ inline int first_row(int pass) {
    const int block = threadIdx.x / 128 * kPasses + pass;
    return block * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
}

// Every warp brings its sums to the CTAs that finish them. A thread holds two neighbouring columns (rows of w) at x's rows m and m + 8,
// then the same 8 columns further on.
__device__ inline void bring_sums(const float (&acc)[kSums], int pass, Shared& shared) {
    const int m = first_row(pass), column = threadIdx.x % 4 * 2, rank = SplitK::rank();
#pragma unroll
    for (int owner = 0; owner < kSplits; ++owner) {
        Sums* const to = owner == rank ? &shared.memory.own : SplitK::peer(inbox(shared, owner, rank), owner);
#pragma unroll
        for (int half = 0; half < kBoxes; ++half)
#pragma unroll
            for (int c = 0; c < kShareRows; c += 8) {
                const float* const sums = acc + (half * kOutRows + owner * kShareRows + c) / 2;
                float* const row = &to->at[m][half * kShareRows + c + column];
                *reinterpret_cast<float2*>(row) = make_float2(sums[0], sums[1]);
                *reinterpret_cast<float2*>(row + 8 * kPitch) = make_float2(sums[2], sums[3]);
            }
    }
}

// Four neighbouring columns at x's row m, summed over the cluster.
__device__ inline float4 cluster_sum(Shared& shared, int m, int column) {
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    const int rank = SplitK::rank();
#pragma unroll
    for (int r = 0; r < kSplits; ++r) {
        const Sums* const from = r == rank ? &shared.memory.own : inbox(shared, rank, r);
        const float4 part = *reinterpret_cast<const float4*>(&from->at[m][column]);
        sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    return sum;
}

__device__ inline float silu_mul(float gate, float up) { return __fdividef(gate, 1.f + exp2_approx(-kLog2e * gate)) * up; }

__device__ inline float2 with_bias(float2 sum, const SCALAR* bias, int n) {
    if (!bias) return sum;
    const float2 more = Pair<SCALAR>::unpack(*reinterpret_cast<const unsigned*>(bias + n));
    return make_float2(sum.x + more.x, sum.y + more.y);
}

// Two neighbouring columns from n on, as they are stored; up: the sums of the up columns beside them, for kSiluMul.
__device__ inline float2 finished(const Params& p, int n, float2 sum, float2 up) {
    const float2 y = with_bias(sum, p.bias, n);
    if constexpr (kEpilogue != kSiluMul) return y;
    up = with_bias(up, p.bias, p.n / 2 + n);
    return make_float2(silu_mul(y.x, up.x), silu_mul(y.y, up.y));
}

// Without a cluster the sums are whole and every thread stores its own: two neighbouring columns at x's rows m and m + 8, and so on
// every 8 columns. 16-bit outputs are half sectors then, but nothing goes by way of shared memory.
__device__ inline void store_own(const Params& p, const Tile& tile, const float (&acc)[kSums], int pass) {
    const int width = p.n / kBoxes, first = tile.w * kOutRows + threadIdx.x % 4 * 2;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const int m = tile.x * kXRows + first_row(pass) + row * 8;
        Out* const out = p.out + static_cast<long long>(m) * width;
#pragma unroll
        for (int c = 0; c < kOutRows; c += 8) {
            const float* const sums = acc + c / 2 + row * 2;
            const float* const up_sums = sums + (kBoxes - 1) * kOutRows / 2;
            const int n = first + c;
            if (m >= p.m || n >= width) continue;
            const float2 y = finished(p, n, make_float2(sums[0], sums[1]), make_float2(up_sums[0], up_sums[1]));
            if constexpr (kEpilogue == kStoreFloat) {
                *reinterpret_cast<float2*>(out + n) = y;
            } else {
                *reinterpret_cast<unsigned*>(out + n) = Pair<SCALAR>::pack(y.x, y.y);
            }
        }
    }
}

__device__ inline void store(const Params& p, long long at, int n, const float4& sum, const float4& up) {
    const float2 low = finished(p, n, make_float2(sum.x, sum.y), make_float2(up.x, up.y));
    const float2 high = finished(p, n + 2, make_float2(sum.z, sum.w), make_float2(up.z, up.w));
    if constexpr (kEpilogue == kStoreFloat) {
        *reinterpret_cast<float4*>(p.out + at) = make_float4(low.x, low.y, high.x, high.y);
    } else {
        *reinterpret_cast<uint2*>(p.out + at) = make_uint2(Pair<SCALAR>::pack(low.x, low.y), Pair<SCALAR>::pack(high.x, high.y));
    }
}

// This CTA's share of the tile's columns; several loads of a thread are on their way before its first store.
__device__ inline void store_share(const Params& p, const Tile& tile, Shared& shared) {
    constexpr int kQuads = kShareRows / 4, kAhead = 4;
    const int width = p.n / kBoxes, first = tile.w * kOutRows + SplitK::rank() * kShareRows;
    const int first_m = tile.x * kXRows, end = kQuads * min(p.m - first_m, kXRows);
    for (int base = threadIdx.x; base < end; base += kAhead * kConsumers) {
        float4 y[kAhead], up[kAhead];
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
            const int i = min(base + a * kConsumers, end - 1), m = i / kQuads, column = i % kQuads * 4;
            y[a] = cluster_sum(shared, m, column);
            if constexpr (kEpilogue == kSiluMul) up[a] = cluster_sum(shared, m, kShareRows + column);
        }
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
            const int i = base + a * kConsumers, m = i / kQuads, n = first + i % kQuads * 4;
            if (i < end && n < width) store(p, static_cast<long long>(first_m + m) * width + n, n, y[a], up[a]);
        }
    }
}

__device__ inline void consume(const Params& p, const Tile& tile, const Range& range, Shared& shared) {
    const bool multiplies = threadIdx.x < kGroups * 128;
    float acc[kPasses][kSums];
    if (multiplies) multiply(range, shared, acc);
    wait_for_predecessor();  // it may read what is stored here
    if constexpr (kSplits == 1) {
        if (!multiplies) return;
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) store_own(p, tile, acc[pass], pass);
    } else {
        named_barrier_sync(kConsumersBarrier, kConsumers);  // all reads of the ring are over
        SplitK::wait();
        if (multiplies) {
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) bring_sums(acc[pass], pass, shared);
        }
        SplitK::sync();
        store_share(p, tile, shared);
    }
}

// Grid: (tiles of w * tiles of x * CLUSTER, 1, 1) in clusters of CLUSTER. Dynamic shared memory: Shared, then CLUSTER - 1 times Sums.
extern "C" __global__ void __launch_bounds__(kThreads, 1) stream_gemm_kernel(const __grid_constant__ Params p) {
    extern __shared__ __align__(1024) char dynamic_shared[];
    Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
    const Tile tile(p);
    const Range range(p);
    if constexpr (kSplits > 1) SplitK::arrive();  // this CTA runs: from the wait on, the others may write to its shared memory
    if (threadIdx.x == kConsumers) {
        for (int slot = 0; slot < kNumStages; ++slot) {
            barrier_init(&shared.full[slot], 1);
            barrier_init(&shared.empty[slot], 4 * kGroups);
        }
        barrier_init_fence();
        fill_ring(p, tile, range, shared);
    }
    __syncthreads();
    // Two passes need more registers than all threads can have: 384 start with 168 each; 24 and 240 use the same 64,512.
    if (threadIdx.x >= kConsumers) {
        if constexpr (kPasses > 1) release_registers<24>();
        if (threadIdx.x == kConsumers) produce(p, tile, range, shared);
    } else {
        if constexpr (kPasses > 1) claim_registers<240>();
        consume(p, tile, range, shared);
    }
}
