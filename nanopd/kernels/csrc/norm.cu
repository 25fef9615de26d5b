// RMSNorm of each row, optionally after adding the row to the residual stream.
//
// Macros: SCALAR (__nv_bfloat16 | __half), THREADS, VECS (16-byte vectors a thread), ADD_RESIDUAL (0 | 1), RESIDUAL (SCALAR's
// type or float: a float32 stream is never rounded).
// One CTA a row; a thread keeps its VECS x 8 elements in registers between the sum of squares and the scaling, so every
// byte moves once. THREADS * VECS * 8 >= H.
#include <nanopd/math.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/scalar.cuh>

using namespace nanopd;

constexpr int kThreads = THREADS;
constexpr int kWarps = kThreads / 32;
constexpr int kVecs = VECS;
static_assert(kThreads % 32 == 0 && kThreads <= 1024);

// The sum over the CTA, in every thread, always added in the same order.
__device__ __forceinline__ float cta_sum(float value) {
    __shared__ float warp_sums[kWarps];
    value = lane_group_sum<32>(value);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
    __syncthreads();
    return lane_group_sum<32>(threadIdx.x % 32 < kWarps ? warp_sums[threadIdx.x % 32] : 0.f);
}

// Eight elements of the residual stream, as float32.
__device__ __forceinline__ void load_stream(const RESIDUAL* from, float (&to)[8]) {
    if constexpr (sizeof(RESIDUAL) == 4) {
        *reinterpret_cast<float4*>(to) = reinterpret_cast<const float4*>(from)[0];
        *reinterpret_cast<float4*>(to + 4) = reinterpret_cast<const float4*>(from)[1];
    } else {
        unpack8<SCALAR>(*reinterpret_cast<const uint4*>(from), to);
    }
}

// Stores eight elements; ``values`` become what was stored, rounded, as if the addition were a kernel of its own.
__device__ __forceinline__ void store_stream(RESIDUAL* to, float (&values)[8]) {
    if constexpr (sizeof(RESIDUAL) == 4) {
        reinterpret_cast<float4*>(to)[0] = *reinterpret_cast<const float4*>(values);
        reinterpret_cast<float4*>(to)[1] = *reinterpret_cast<const float4*>(values + 4);
    } else {
        const uint4 rounded = pack8<SCALAR>(values);
        *reinterpret_cast<uint4*>(to) = rounded;
        unpack8<SCALAR>(rounded, values);
    }
}

// x [T, H], rows x_stride apart; residual [T, H], rows residual_stride apart, updated in place; weight [H];
// out [T, H] contiguous, may be x. H and the strides are multiples of 8.
extern "C" __global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(const SCALAR* x, RESIDUAL* residual, const SCALAR* __restrict__ weight, SCALAR* out, int hidden,
                    long long x_stride, long long residual_stride, float eps) {
    const long long row = blockIdx.x;
    x += row * x_stride;
    residual += row * residual_stride;
    out += row * hidden;
    // The successor may start before the wait: all it can do until this kernel ends is to fetch its own weights.
    let_successor_start();
    uint4 scale[kVecs], in[kVecs];
    alignas(16) float carried[kVecs][8];
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
        const int i = (v * kThreads + threadIdx.x) * 8;
        if (i < hidden) scale[v] = *reinterpret_cast<const uint4*>(weight + i);
    }
    wait_for_predecessor();
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
        const int i = (v * kThreads + threadIdx.x) * 8;
        if (i >= hidden) continue;
        in[v] = *reinterpret_cast<const uint4*>(x + i);
        if constexpr (ADD_RESIDUAL) load_stream(residual + i, carried[v]);
    }

    alignas(16) float values[kVecs][8];
    float squares = 0.f;
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
        const int i = (v * kThreads + threadIdx.x) * 8;
        if (i >= hidden) continue;
        unpack8<SCALAR>(in[v], values[v]);
        if constexpr (ADD_RESIDUAL) {
#pragma unroll
            for (int j = 0; j < 8; ++j) values[v][j] += carried[v][j];
            store_stream(residual + i, values[v]);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) squares = fmaf(values[v][j], values[v][j], squares);
    }

    const float inverse = rsqrtf(cta_sum(squares) / hidden + eps);
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
        const int i = (v * kThreads + threadIdx.x) * 8;
        if (i >= hidden) continue;
        float weights[8];
        unpack8<SCALAR>(scale[v], weights);
#pragma unroll
        for (int j = 0; j < 8; ++j) values[v][j] *= inverse * weights[j];
        *reinterpret_cast<uint4*>(out + i) = pack8<SCALAR>(values[v]);
    }
}
