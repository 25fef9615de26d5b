// RMSNorm of each row of x, of the residual stream after adding x to it, or of the stream alone.
//
// Macros: SCALAR (__nv_bfloat16 | __half), THREADS, VECS (vectors of 8 elements a thread), HAS_X, HAS_STREAM (0 | 1), STREAM (SCALAR's
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
static_assert(kThreads % 32 == 0 && kThreads <= 1024 && (HAS_X || HAS_STREAM));

// The sum over the CTA, in every thread, always added in the same order.
__device__ __forceinline__ float cta_sum(float value) {
    __shared__ float warp_sums[kWarps];
    value = lane_group_sum<32>(value);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
    __syncthreads();
    return lane_group_sum<32>(threadIdx.x % 32 < kWarps ? warp_sums[threadIdx.x % 32] : 0.f);
}

// Eight elements of the residual stream, as float32.
__device__ __forceinline__ void load_stream(const STREAM* from, float (&to)[8]) {
    if constexpr (sizeof(STREAM) == 4) {
        *reinterpret_cast<float4*>(to) = reinterpret_cast<const float4*>(from)[0];
        *reinterpret_cast<float4*>(to + 4) = reinterpret_cast<const float4*>(from)[1];
    } else {
        unpack8<SCALAR>(*reinterpret_cast<const uint4*>(from), to);
    }
}

// Stores eight elements; ``values`` become what was stored, rounded, as if the addition were a kernel of its own.
__device__ __forceinline__ void store_stream(STREAM* to, float (&values)[8]) {
    if constexpr (sizeof(STREAM) == 4) {
        reinterpret_cast<float4*>(to)[0] = *reinterpret_cast<const float4*>(values);
        reinterpret_cast<float4*>(to)[1] = *reinterpret_cast<const float4*>(values + 4);
    } else {
        const uint4 rounded = pack8<SCALAR>(values);
        *reinterpret_cast<uint4*>(to) = rounded;
        unpack8<SCALAR>(rounded, values);
    }
}

// x [T, H], rows x_stride apart; stream [T, H], rows stream_stride apart, updated in place if there is an x; weight [H];
// out [T, H] contiguous, may be x. H and the strides are multiples of 8.
extern "C" __global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(const SCALAR* x, STREAM* stream, const SCALAR* __restrict__ weight, SCALAR* out, int hidden,
                    long long x_stride, long long stream_stride, float eps) {
    const long long row = blockIdx.x;
    x += row * x_stride;
    stream += row * stream_stride;
    out += row * hidden;
    // The successor may start before the wait: all it can do until this kernel ends is to fetch its own weights.
    let_successor_start();
    uint4 scale[kVecs], in[kVecs];
    alignas(16) float values[kVecs][8];
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
        if constexpr (HAS_X) in[v] = *reinterpret_cast<const uint4*>(x + i);
        if constexpr (HAS_STREAM) load_stream(stream + i, values[v]);
    }

    float squares = 0.f;
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
        const int i = (v * kThreads + threadIdx.x) * 8;
        if (i >= hidden) continue;
        if constexpr (HAS_X) {
            float added[8];
            unpack8<SCALAR>(in[v], added);
#pragma unroll
            for (int j = 0; j < 8; ++j) values[v][j] = HAS_STREAM ? values[v][j] + added[j] : added[j];
            if constexpr (HAS_STREAM) store_stream(stream + i, values[v]);
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
