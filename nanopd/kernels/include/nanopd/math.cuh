// Fast math whose error is known, and reductions over part of a warp.
#pragma once

#ifndef INFINITY  // NVRTC has no <math.h>
#define INFINITY __int_as_float(0x7f800000)
#endif

namespace nanopd {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// 2^x to 2 ulp in one instruction; 2^-inf is 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Sum over the kLanes consecutive lanes (a power of two) that this lane belongs to, in every one of them.
template <int kLanes>
__device__ __forceinline__ float lane_group_sum(float x) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kFullWarp, x, distance);
    return x;
}

// Over the eight lanes 4g + t that share t: the rows of an mma fragment.
__device__ __forceinline__ float sum_over_rows(float x) {
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) x += __shfl_xor_sync(kFullWarp, x, distance);
    return x;
}

__device__ __forceinline__ float max_over_rows(float x) {
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, distance));
    return x;
}

}  // namespace nanopd
