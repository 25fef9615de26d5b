// y[M, N] = x[M, K] w[N, K]^T for tens of rows of x: the weights streamed once through wgmma, K split over a cluster.
//
// Macros: SCALAR (__nv_bfloat16 | __half), EPILOGUE (0: store | 1: silu(gate) * up | 2: store float32),
//         COLUMNS (rows of x, rounded up: 16 | 32 | 64 | 128), ROWS (of w a tile: 64 | 128 | 192), CLUSTER (1 | 2 | 4 | 8), STAGES.
//
// Operands change places: 64 rows of w are wgmma's A, the rows of x its B, both by TMA into a ring of stages of 64 along K. A warp
// produces; each warpgroup multiplies 64 rows. The CTAs of a cluster take the same tile and a share of K each; at the end every CTA
// leaves its sums in shared memory and adds up a share of the tile from all of them, in the order of their ranks.
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
constexpr int kColumns = COLUMNS;
using Out = Either<EPILOGUE == kStoreFloat, float, SCALAR>;
constexpr int kRows = ROWS;
constexpr int kSplits = CLUSTER;
constexpr int kNumStages = STAGES;
constexpr int kStageK = 64;
constexpr int kConsumers = 2 * kRows;              // threads: a warpgroup for 64 rows
constexpr int kThreads = kConsumers + 32;          // and a warp that copies
constexpr int kBoxes = kEpilogue == kSiluMul ? 2 : 1;
constexpr int kOutRows = kRows / kBoxes;           // of a tile: kSiluMul puts gate rows over their up rows
constexpr int kShareRows = kOutRows / kSplits;     // that one CTA of the cluster finishes
constexpr int kPitch = kRows + 4;                  // floats; keeps the fragments' columns on different banks
static_assert(kRows % 64 == 0 && kShareRows % 4 == 0 && kColumns % 16 == 0);

namespace nanopd {

#define NANOPD_SMALL_WGMMA(SCALAR_TYPE, PTX_TYPE)                                                                               \
    template <>                                                                                                                 \
    __device__ inline void wgmma_shared<SCALAR_TYPE, 16>(float* d, unsigned long long a, unsigned long long b, bool add) {      \
        asm volatile("{.reg .pred p; setp.ne.b32 p, %10, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32." PTX_TYPE "." PTX_TYPE  \
                     " {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, p, 1, 1, 0, 0;}"                                               \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])           \
                     : "l"(a), "l"(b), "r"(int(add)));                                                                          \
    }                                                                                                                           \
    template <>                                                                                                                 \
    __device__ inline void wgmma_shared<SCALAR_TYPE, 32>(float* d, unsigned long long a, unsigned long long b, bool add) {      \
        asm volatile("{.reg .pred p; setp.ne.b32 p, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32." PTX_TYPE "." PTX_TYPE  \
                     " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1, 0, 0;}"       \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),          \
                       "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])     \
                     : "l"(a), "l"(b), "r"(int(add)));                                                                          \
    }
NANOPD_SMALL_WGMMA(__nv_bfloat16, "bf16")
NANOPD_SMALL_WGMMA(__half, "f16")
#undef NANOPD_SMALL_WGMMA

}  // namespace nanopd

struct Params {
    TensorMap w;           // [N, K] in boxes of [kOutRows, 64]; for kSiluMul the gate rows, then the up rows
    TensorMap x;           // [M, K] in boxes of [kColumns, 64], zeros past M
    const SCALAR* bias;    // [N] or null
    Out* out;              // [M, N], or [M, N / 2] for kSiluMul
    int m, n, k;
    int trigger_stages;    // the successor may start when so many stages are left to be copied
};

struct Stage {
    alignas(1024) char w[kRows * 128];
    char x[kColumns * 128];
};

union Memory {
    Stage ring[kNumStages];
    float sums[kColumns][kPitch];  // once the ring is done with
};

struct Shared {
    Memory memory;
    Barrier full[kNumStages], empty[kNumStages];
};

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
    barrier_arrive_expect(&shared.full[slot], sizeof(Stage::w) + sizeof(Stage::x));
#pragma unroll
    for (int box = 0; box < kBoxes; ++box)
        tma_load_3d(shared.memory.ring[slot].w + box * kOutRows * 128, p.w, &shared.full[slot], (range.first + i) * kStageK,
                    tile * kOutRows + box * (p.n / 2), 0);
}

__device__ inline void load_x(const Params& p, const Range& range, int i, Shared& shared) {
    const int slot = i % kNumStages;
    tma_load_3d(shared.memory.ring[slot].x, p.x, &shared.full[slot], (range.first + i) * kStageK, 0, 0);
}

// One thread. Weights run ahead of the previous kernel's end as far as the ring reaches.
__device__ inline void produce(const Params& p, const Range& range, Shared& shared) {
    const int early = min(kNumStages, range.count), trigger = max(0, range.count - p.trigger_stages);
    for (int i = 0; i < early; ++i) load_weights(p, range, i, shared);
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

__device__ inline void multiply(const Range& range, Shared& shared, float (&acc)[kColumns / 2]) {
    const int group = threadIdx.x / 128;
    pin_registers(acc);
    for (int i = 0; i < range.count; ++i) {
        const int slot = i % kNumStages;
        barrier_wait(&shared.full[slot], i / kNumStages & 1);
        const Stage& stage = shared.memory.ring[slot];
        const unsigned long long a = operand_descriptor(stage.w + group * 64 * 128, kAtomBytes);
        const unsigned long long b = operand_descriptor(stage.x, kAtomBytes);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < kStageK / 16; ++step)
            wgmma_shared<SCALAR, kColumns>(acc, advanced(a, step * 32), advanced(b, step * 32), i > 0 || step > 0);
        wgmma_commit();
        wgmma_wait<1>();  // the stage before
        if (i > 0 && threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[(i - 1) % kNumStages]);
    }
    wgmma_wait<0>();
    pin_registers(acc);
}

// Four neighbouring rows of w in column m of the tile, summed over the cluster.
__device__ inline float4 cluster_sum(Shared& shared, int m, int row) {
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
    for (int r = 0; r < kSplits; ++r) {
        const float4 part = *reinterpret_cast<const float4*>(SplitK::peer(&shared.memory.sums[m][row], r));
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

// This CTA's share of the tile's rows.
__device__ inline void store_share(const Params& p, Shared& shared) {
    const int width = p.n / kBoxes, tile = blockIdx.x / kSplits;
    constexpr int kQuads = kShareRows / 4;
    for (int i = threadIdx.x; i < kQuads * p.m; i += kThreads) {
        const int m = i / kQuads, row = SplitK::rank() * kShareRows + i % kQuads * 4, n = tile * kOutRows + row;
        if (n >= width) continue;
        float4 y = with_bias(cluster_sum(shared, m, row), p.bias ? p.bias + n : nullptr);
        Out* const to = p.out + static_cast<long long>(m) * width + n;
        if constexpr (kEpilogue == kStoreFloat) {
            *reinterpret_cast<float4*>(to) = y;
            continue;
        }
        if constexpr (kEpilogue == kSiluMul) {
            const float4 up = with_bias(cluster_sum(shared, m, kOutRows + row), p.bias ? p.bias + width + n : nullptr);
            y = make_float4(silu_mul(y.x, up.x), silu_mul(y.y, up.y), silu_mul(y.z, up.z), silu_mul(y.w, up.w));
        }
        *reinterpret_cast<uint2*>(to) = make_uint2(Pair<SCALAR>::pack(y.x, y.y), Pair<SCALAR>::pack(y.z, y.w));
    }
}

// Grid: (tiles * CLUSTER, 1, 1) in clusters of CLUSTER. Dynamic shared memory: Shared.
extern "C" __global__ void __launch_bounds__(kThreads, 1) stream_gemm_kernel(const __grid_constant__ Params p) {
    extern __shared__ __align__(1024) char dynamic_shared[];
    Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
    const Range range(p);
    if (threadIdx.x == kConsumers) {
        for (int slot = 0; slot < kNumStages; ++slot) {
            barrier_init(&shared.full[slot], 1);
            barrier_init(&shared.empty[slot], kConsumers / 32);
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= kConsumers) {
        if (threadIdx.x == kConsumers) produce(p, range, shared);
        __syncwarp();
        wait_for_predecessor();
        __syncthreads();  // the consumers' last reads of the ring
    } else {
        float acc[kColumns / 2];
        multiply(range, shared, acc);
        wait_for_predecessor();
        __syncthreads();
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < kColumns / 2; ++i)  // of 8 columns each: two of row, then two of row + 8
            shared.memory.sums[i / 4 * 8 + column + i % 2][row + i / 2 % 2 * 8] = acc[i];
    }
    SplitK::arrive();
    SplitK::wait();
    store_share(p, shared);
    if constexpr (kSplits > 1) SplitK::sync();  // no CTA leaves while others read its sums
}
