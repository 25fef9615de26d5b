// y[M, N] = x[M, K] w[N, K]^T for few rows of x: a stream of weights through the tensor cores at the speed of memory.
//
// Macros: SCALAR (__nv_bfloat16 | __half), EPILOGUE (0: store | 1: silu(gate) * up | 2: store float32),
//         X_TILES (of 8 rows of x: 1 | 2 | 4), SLAB_K (elements of K whose x is held in registers), STAGES.
//
// One persistent CTA an SM takes tiles of 16 rows of w. TMA brings them, 16 rows x 512 a stage, into a ring that fills shared
// memory. Eight warps split K within each stage and multiply with mma.m16n8k16: 16 rows of w are its A operand, 8 rows of x its B
// operand, kept in registers in fragments for a slab of K. At the end of a tile the eight partial sums meet in shared memory,
// always in the same order; sums of a slab wait there for the next slab.
//
// A thread's 16-byte load holds 8 neighbours along K where an mma wants pairs 8 apart; since x is loaded by the same rule, both
// operands see the same permutation of K and the sum does not notice.
//
// Weights do not depend on the previous kernel: under programmatic dependent launch the ring fills while that one ends.
#include <nanopd/math.cuh>
#include <nanopd/mma.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/scalar.cuh>
#include <nanopd/sm90_tma.cuh>

using namespace nanopd;

enum Epilogue { kStore = 0, kSiluMul = 1, kStoreFloat = 2 };

constexpr int kEpilogue = EPILOGUE;
constexpr int kXTiles = X_TILES;
using Out = Either<EPILOGUE == kStoreFloat, float, SCALAR>;
constexpr int kStageK = 512;
constexpr int kNumStages = STAGES;
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileRows = 16;
constexpr int kPanelK = 64;                                  // a panel is 8 rows of 128 bytes, swizzled by TMA
constexpr int kPanelBytes = 1024;
constexpr int kHalfBytes = kStageK / kPanelK * kPanelBytes;  // 8 of the 16 rows
constexpr int kWarpPanels = kStageK / kPanelK / kWarps;      // of a stage
constexpr int kSlabStages = SLAB_K / kStageK;
constexpr int kTileElements = kTileRows * 8 * kXTiles;
constexpr int kPartialBuffers = kXTiles < 4 ? 2 : 1;
static_assert(kSlabStages >= 1 && kWarpPanels >= 1);

struct Params {
    TensorMap w;             // [K / 64, N, 64] in boxes of [kStageK / 64, 8, 64]; for kSiluMul the gate rows, then the up rows
    const SCALAR* x;         // [M, K], rows x_stride apart
    const SCALAR* bias;      // [N] or null
    Out* out;                // [M, N], or [M, N / 2] for kSiluMul
    long long x_stride;
    int m, n, k;
    int num_tiles;
    int trigger_stages;      // the successor may start when so many stages are left to be copied
};

struct Shared {
    alignas(1024) char ring[kNumStages][2][kHalfBytes];
    float partial[kPartialBuffers][kWarps][kTileElements];
    Barrier full[kNumStages], empty[kNumStages];
};

// The order of stages, the same for copies and products: slabs of K, tiles of this CTA, stages of the slab.
struct Schedule {
    int num_k_stages, num_slabs, cta_tiles;

    __device__ explicit Schedule(const Params& p)
        : num_k_stages(p.k / kStageK),
          num_slabs((num_k_stages + kSlabStages - 1) / kSlabStages),
          cta_tiles((p.num_tiles - static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x)) {}
    __device__ int total() const { return num_k_stages * cta_tiles; }
    __device__ int tile(int index) const { return blockIdx.x + index * gridDim.x; }
    __device__ int slab_stages(int slab) const { return min(kSlabStages, num_k_stages - slab * kSlabStages); }
};

struct Cursor {
    int slab = 0, tile_index = 0, stage = 0;

    __device__ void advance(const Schedule& schedule) {
        if (++stage < schedule.slab_stages(slab)) return;
        stage = 0;
        if (++tile_index < schedule.cta_tiles) return;
        tile_index = 0, ++slab;
    }
    __device__ int panel() const { return (slab * kSlabStages + stage) * (kStageK / kPanelK); }
    // Where the two halves of the tile begin: kSiluMul puts 8 gate rows over their 8 up rows, so that both end in one CTA.
    __device__ int row(const Params& p, const Schedule& schedule, int half) const {
        const int tile = schedule.tile(tile_index);
        if constexpr (kEpilogue == kSiluMul) return tile * 8 + half * (p.n / 2);
        return tile * kTileRows + half * 8;
    }
};

// Keeps the ring full; the first thread alone.
struct Producer {
    Cursor cursor;
    int num_issued = 0;
    int slot = 0;

    __device__ void issue(const Params& p, const Schedule& schedule, Shared& shared) {
        if (num_issued == max(0, schedule.total() - p.trigger_stages)) let_successor_start();
        barrier_arrive_expect(&shared.full[slot], 2 * kHalfBytes);
#pragma unroll
        for (int half = 0; half < 2; ++half)
            tma_load_3d(shared.ring[slot][half], p.w, &shared.full[slot], 0, cursor.row(p, schedule, half), cursor.panel());
        cursor.advance(schedule);
        slot = slot + 1 == kNumStages ? 0 : slot + 1;
        ++num_issued;
    }
    __device__ void fill(const Params& p, const Schedule& schedule, Shared& shared) {
        const int num_stages = min(kNumStages, schedule.total());
        while (num_issued < num_stages) issue(p, schedule, shared);
    }
    // Refills the slot of the last stage but one, which the other warps have most likely left by now.
    __device__ void refill(const Params& p, const Schedule& schedule, Shared& shared, unsigned parity) {
        if (num_issued >= schedule.total()) return;
        barrier_wait(&shared.empty[slot], parity);
        issue(p, schedule, shared);
    }
};

// What a thread writes of a tile: elements threadIdx.x + i * kThreads, where element row * kColumns + column is y[column][row].
constexpr int kOutRows = kEpilogue == kSiluMul ? 8 : kTileRows;
constexpr int kColumns = 8 * kXTiles;
constexpr int kOutElements = (kOutRows * kColumns + kThreads - 1) / kThreads;

struct Output {
    Out* at[kOutElements];     // null where nothing is to be written
    int n[kOutElements];

    __device__ Output(const Params& p, int tile) {
        const int width = kEpilogue == kSiluMul ? p.n / 2 : p.n;
#pragma unroll
        for (int i = 0; i < kOutElements; ++i) {
            const int e = threadIdx.x + i * kThreads, m = e % kColumns;
            n[i] = tile * kOutRows + e / kColumns;
            const bool valid = e < kOutRows * kColumns && m < p.m && n[i] < width;
            at[i] = valid ? p.out + static_cast<long long>(m) * width + n[i] : nullptr;
        }
    }
    // `sum(e)` gives element e.
    template <typename Sum> __device__ void store(const Params& p, const Sum& sum) const {
#pragma unroll
        for (int i = 0; i < kOutElements; ++i) {
            if (!at[i]) continue;
            const int e = threadIdx.x + i * kThreads;
            float y = sum(e) + (p.bias ? static_cast<float>(p.bias[n[i]]) : 0.f);
            if constexpr (kEpilogue == kSiluMul) {
                const float up = sum(e + 8 * kColumns) + (p.bias ? static_cast<float>(p.bias[n[i] + p.n / 2]) : 0.f);
                y = __fdividef(y, 1.f + exp2_approx(-kLog2e * y)) * up;
            }
            *at[i] = Out(y);
        }
    }
};

// This thread's fragments of x for a slab: of each panel of 64, 16 elements along K of row lane / 4 of each tile.
using XFragments = uint4[kSlabStages][kWarpPanels][2][kXTiles];

__device__ inline void load_x(const Params& p, int first_stage, int num_stages, XFragments& x) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int s = 0; s < kSlabStages; ++s)
#pragma unroll
        for (int panel = 0; panel < kWarpPanels; ++panel)
#pragma unroll
            for (int t = 0; t < kXTiles; ++t) {
                const int row = t * 8 + lane / 4;
                const int k = (first_stage + s) * kStageK + (panel * kWarps + warp) * kPanelK + lane % 4 * 16;
                const uint4* from = reinterpret_cast<const uint4*>(p.x + row * p.x_stride + k);
                const bool valid = row < p.m && s < num_stages;
#pragma unroll
                for (int b = 0; b < 2; ++b) x[s][panel][b][t] = valid ? from[b] : make_uint4(0, 0, 0, 0);
            }
}

// acc += 16 rows of w times x, over this warp's panels of one stage.
__device__ inline void multiply(const char (&stage)[2][kHalfBytes], const uint4 (&x)[kWarpPanels][2][kXTiles],
                                float (&acc)[kXTiles][4], Barrier* empty) {
    const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
    uint4 w[kWarpPanels][2][2];  // [panel][block of 32 along K][half]
#pragma unroll
    for (int panel = 0; panel < kWarpPanels; ++panel)
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            // TMA stores 16-byte chunk c of row r at c ^ r. Chunks 2 * quad + b keep neighbouring rows on different banks.
            const int offset = (panel * kWarps + warp) * kPanelBytes + row * 128 + ((2 * quad + b) ^ row) * 16;
#pragma unroll
            for (int half = 0; half < 2; ++half) w[panel][b][half] = *reinterpret_cast<const uint4*>(stage[half] + offset);
        }
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(empty);
#pragma unroll
    for (int panel = 0; panel < kWarpPanels; ++panel)
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            const uint4 &low = w[panel][b][0], &high = w[panel][b][1];
            const unsigned first[4] = {low.x, high.x, low.y, high.y};
            const unsigned second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
            for (int t = 0; t < kXTiles; ++t) {
                mma_m16n8k16<SCALAR>(acc[t], first, x[panel][b][t].x, x[panel][b][t].y);
                mma_m16n8k16<SCALAR>(acc[t], second, x[panel][b][t].z, x[panel][b][t].w);
            }
        }
}

__device__ inline void save_partial(const float (&acc)[kXTiles][4], float* partial) {
    const int row = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < kXTiles; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            *reinterpret_cast<float2*>(partial + (row + 8 * half) * 8 * kXTiles + t * 8 + quad * 2) =
                make_float2(acc[t][2 * half], acc[t][2 * half + 1]);
}

// Dynamic shared memory: Shared, then kTileElements floats for each tile of a CTA when K takes more than one slab.
extern "C" __global__ void __launch_bounds__(kThreads, 1) skinny_gemm_kernel(const __grid_constant__ Params p) {
    extern __shared__ __align__(1024) char dynamic_shared[];
    Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
    float* totals = reinterpret_cast<float*>(dynamic_shared + sizeof(Shared));
    const Schedule schedule(p);
    Producer producer;
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < kNumStages; ++slot) {
            barrier_init(&shared.full[slot], 1);
            barrier_init(&shared.empty[slot], kWarps);
        }
        barrier_init_fence();
        producer.fill(p, schedule, shared);
    }
    __syncthreads();
    wait_for_predecessor();

    int slot = 0, buffer = 0;  // of the ring, of the partial sums
    unsigned parity = 0;       // of the ring's round
    bool refill = false;       // from the second stage on
    for (int slab = 0; slab < schedule.num_slabs; ++slab) {
        const int num_stages = schedule.slab_stages(slab);
        XFragments x;
        load_x(p, slab * kSlabStages, num_stages, x);
        for (int tile_index = 0; tile_index < schedule.cta_tiles; ++tile_index) {
            float acc[kXTiles][4] = {};
            const Output output(p, schedule.tile(tile_index));
#pragma unroll
            for (int s = 0; s < kSlabStages; ++s) {
                if (s >= num_stages) break;
                barrier_wait(&shared.full[slot], parity);
                multiply(shared.ring[slot], x[s], acc, &shared.empty[slot]);
                if (threadIdx.x == 0 && refill) producer.refill(p, schedule, shared, slot == 0 ? parity ^ 1 : parity);
                __syncwarp();
                refill = true;
                slot = slot + 1 == kNumStages ? 0 : slot + 1;
                parity ^= slot == 0;
            }
            save_partial(acc, shared.partial[buffer][threadIdx.x / 32]);
            __syncthreads();
            float* total = totals + tile_index * kTileElements;
            const auto sum = [&](int e) {
                float y = slab > 0 ? total[e] : 0.f;
#pragma unroll
                for (int w = 0; w < kWarps; ++w) y += shared.partial[buffer][w][e];
                return y;
            };
            if (slab + 1 < schedule.num_slabs) {
                for (int e = threadIdx.x; e < kTileElements; e += kThreads) total[e] = sum(e);
            } else {
                output.store(p, sum);
            }
            // With two buffers a warp that runs ahead writes the other one, and meets all others before it is back at this.
            if constexpr (kPartialBuffers == 1) __syncthreads();
            buffer = (buffer + 1) % kPartialBuffers;
        }
    }
}
