// y[M, N] = x[M, K] w[N, K]^T for tens of rows of x: the weights streamed once through wgmma, K split over a cluster.
//
// Macros: SCALAR (__nv_bfloat16 | __half), EPILOGUE (0: store | 1: silu(gate) * up | 2: store float32),
//         X_ROWS (of x, rounded up: 64 | 128), ROWS (of w a tile: 32 | 64 | 96 | 128 | 160 | 192), CLUSTER (1 | 2 | 4 | 8), STAGES.
//
// 64 rows of x are wgmma's A, all rows of the tile its B, both by TMA into a ring of stages of 64 along K. A warp produces; each
// warpgroup multiplies 64 rows of x. The CTAs of a cluster take the same tile and a share of K each; at the end every CTA brings its
// sums to the CTAs that finish them, a share of the tile each, added up in the order of the ranks.
//
// Under programmatic dependent launch the ring's weights are on their way before the previous kernel ends; only x waits for it.
#include <nanopd/cluster.cuh>
#include <nanopd/math.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/scalar.cuh>
#include <nanopd/sm90_tma.cuh>
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
constexpr int kGroups = kXRows / 64;               // of warps that multiply
constexpr int kProducer = 256;                     // the first thread of the warp that copies
constexpr int kThreads = kProducer + 32;           // all of them store
constexpr int kBoxes = kEpilogue == kSiluMul ? 2 : 1;
constexpr int kOutRows = kRows / kBoxes;           // of a tile: kSiluMul puts gate rows over their up rows
constexpr int kShareRows = kOutRows / kSplits;     // that one CTA of the cluster finishes
constexpr int kPitch = kBoxes * kShareRows + 8;    // floats; keeps the rows of a fragment on different banks
static_assert(kXRows % 64 == 0 && kGroups * 128 <= kProducer && kRows % 32 == 0 && kShareRows % 8 == 0);

struct Params {
    TensorMap w;           // [N, K] in boxes of [kOutRows, 64]; for kSiluMul the gate rows, then the up rows
    TensorMap x;           // [M, K] in boxes of [M, 64]: rows past M would be filled with zeros, which takes time
    const SCALAR* bias;    // [N] or null
    Out* out;              // [M, N], or [M, N / 2] for kSiluMul
    int m, n, k;
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

struct Range {  // of stages along K, this CTA's share
    int first, count;

    __device__ explicit Range(const Params& p) {
        const int total = p.k / kStageK, rank = SplitK::rank();
        first = rank * total / kSplits;
        count = (rank + 1) * total / kSplits - first;
    }
};

__device__ inline void load_weights(const Params& p, const Range& range, int i, Shared& shared) {
    const int slot = i % kNumStages, tile = blockIdx.x / kSplits;
    barrier_arrive_expect(&shared.full[slot], sizeof(Stage::w) + p.m * 128);
#pragma unroll
    for (int box = 0; box < kBoxes; ++box)
        tma_load_3d(shared.memory.ring[slot].w + box * kOutRows * 128, p.w, &shared.full[slot], (range.first + i) * kStageK,
                    tile * kOutRows + box * (p.n / 2), 0);
}

__device__ inline void load_x(const Params& p, const Range& range, int i, Shared& shared) {
    const int slot = i % kNumStages;
    tma_load_3d(shared.memory.ring[slot].x, p.x, &shared.full[slot], (range.first + i) * kStageK, 0, 0);
}

// One thread, before the previous kernel has ended: weights as far as the ring reaches.
__device__ inline void fill_ring(const Params& p, const Range& range, Shared& shared) {
    const int early = min(kNumStages, range.count);
    for (int i = 0; i < early; ++i) load_weights(p, range, i, shared);
}

// The same thread, for all the rest.
__device__ inline void produce(const Params& p, const Range& range, Shared& shared) {
    const int early = min(kNumStages, range.count), trigger = max(0, range.count - p.trigger_stages);
    wait_for_predecessor();
    for (int i = 0; i < early; ++i) load_x(p, range, i, shared);
    if (trigger <= early) let_successor_start();
    for (int i = early; i < range.count; ++i) {
        if (i == trigger) let_successor_start();
        barrier_wait(&shared.empty[i % kNumStages], (i / kNumStages - 1) & 1);
        load_weights(p, range, i, shared);
        load_x(p, range, i, shared);
    }
}

__device__ inline void multiply(const Range& range, Shared& shared, float (&acc)[kRows / 2]) {
    const int group = threadIdx.x / 128;
    pin_registers(acc);
    for (int i = 0; i < range.count; ++i) {
        const int slot = i % kNumStages;
        barrier_wait(&shared.full[slot], i / kNumStages & 1);
        const Stage& stage = shared.memory.ring[slot];
        const unsigned long long a = operand_descriptor(stage.x + group * 64 * 128, kAtomBytes);
        const unsigned long long b = operand_descriptor(stage.w, kAtomBytes);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < kStageK / 16; ++step)
            wgmma_shared<SCALAR, kRows>(acc, advanced(a, step * 32), advanced(b, step * 32), i > 0 || step > 0);
        wgmma_commit();
        wgmma_wait<1>();  // the stage before
        if (i > 0 && threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[(i - 1) % kNumStages]);
    }
    wgmma_wait<0>();
    pin_registers(acc);
}

// Every warp brings its sums to the CTAs that finish them. A thread holds two neighbouring columns (rows of w) at x's rows m and m + 8,
// then the same 8 columns further on.
__device__ inline void bring_sums(const float (&acc)[kRows / 2], Shared& shared) {
    const int m = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2, rank = SplitK::rank();
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

__device__ inline float4 with_bias(float4 sum, const SCALAR* bias) {
    if (!bias) return sum;
    const uint2 bits = *reinterpret_cast<const uint2*>(bias);
    const float2 low = Pair<SCALAR>::unpack(bits.x), high = Pair<SCALAR>::unpack(bits.y);
    return make_float4(sum.x + low.x, sum.y + low.y, sum.z + high.x, sum.w + high.y);
}

__device__ inline float silu_mul(float gate, float up) { return __fdividef(gate, 1.f + exp2_approx(-kLog2e * gate)) * up; }

__device__ inline void store(const Params& p, long long at, int n, const float4& sum, const float4& up_sum) {
    float4 y = with_bias(sum, p.bias ? p.bias + n : nullptr);
    if constexpr (kEpilogue == kStoreFloat) {
        *reinterpret_cast<float4*>(p.out + at) = y;
        return;
    }
    if constexpr (kEpilogue == kSiluMul) {
        const float4 up = with_bias(up_sum, p.bias ? p.bias + p.n / 2 + n : nullptr);
        y = make_float4(silu_mul(y.x, up.x), silu_mul(y.y, up.y), silu_mul(y.z, up.z), silu_mul(y.w, up.w));
    }
    *reinterpret_cast<uint2*>(p.out + at) = make_uint2(Pair<SCALAR>::pack(y.x, y.y), Pair<SCALAR>::pack(y.z, y.w));
}

// This CTA's share of the tile's columns; several loads of a thread are on their way before its first store.
__device__ inline void store_share(const Params& p, Shared& shared) {
    constexpr int kQuads = kShareRows / 4, kAhead = 4;
    const int width = p.n / kBoxes, first = blockIdx.x / kSplits * kOutRows + SplitK::rank() * kShareRows, end = kQuads * p.m;
    for (int base = threadIdx.x; base < end; base += kAhead * kThreads) {
        float4 y[kAhead], up[kAhead];
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
            const int i = min(base + a * kThreads, end - 1), m = i / kQuads, column = i % kQuads * 4;
            y[a] = cluster_sum(shared, m, column);
            if constexpr (kEpilogue == kSiluMul) up[a] = cluster_sum(shared, m, kShareRows + column);
        }
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
            const int i = base + a * kThreads, m = i / kQuads, n = first + i % kQuads * 4;
            if (i < end && n < width) store(p, static_cast<long long>(m) * width + n, n, y[a], up[a]);
        }
    }
}

// Grid: (tiles * CLUSTER, 1, 1) in clusters of CLUSTER. Dynamic shared memory: Shared, then CLUSTER - 1 times Sums.
extern "C" __global__ void __launch_bounds__(kThreads, 1) stream_gemm_kernel(const __grid_constant__ Params p) {
    extern __shared__ __align__(1024) char dynamic_shared[];
    Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
    const Range range(p);
    if constexpr (kSplits > 1) SplitK::arrive();  // this CTA runs: from the wait on, the others may write to its shared memory
    if (threadIdx.x == kProducer) {
        for (int slot = 0; slot < kNumStages; ++slot) {
            barrier_init(&shared.full[slot], 1);
            barrier_init(&shared.empty[slot], 4 * kGroups);
        }
        barrier_init_fence();
        fill_ring(p, range, shared);
    }
    __syncthreads();
    const bool multiplies = threadIdx.x < kGroups * 128;
    float acc[kRows / 2];
    if (multiplies) multiply(range, shared, acc);
    if (threadIdx.x == kProducer) produce(p, range, shared);
    __syncwarp();
    wait_for_predecessor();
    __syncthreads();  // all reads of the ring are over
    if constexpr (kSplits > 1) SplitK::wait();
    if (multiplies) bring_sums(acc, shared);
    if constexpr (kSplits > 1) SplitK::arrive();
    SplitK::wait();  // without a cluster: __syncthreads()
    store_share(p, shared);
}
