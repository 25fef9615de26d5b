// The 16-bit floats and how they travel: pairs in 32-bit registers, eight in one 16-byte access. Arithmetic is in float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace nanopd {

// The first type if kFirst, else the second.
template <bool kFirst, typename First, typename Second>
struct EitherOf {
    using Type = First;
};
template <typename First, typename Second>
struct EitherOf<false, First, Second> {
    using Type = Second;
};
template <bool kFirst, typename First, typename Second>
using Either = typename EitherOf<kFirst, First, Second>::Type;

template <typename Scalar>
struct Pair;  // two scalars in 32 bits, the first in the low half

template <>
struct Pair<__nv_bfloat16> {
    // bf16 is the upper half of a float: a shift and a mask instead of two conversions.
    static __device__ __forceinline__ float2 unpack(unsigned bits) {
        return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
    }
    static __device__ __forceinline__ unsigned pack(float low, float high) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        return reinterpret_cast<const unsigned&>(pair);
    }
};

template <>
struct Pair<__half> {
    static __device__ __forceinline__ float2 unpack(unsigned bits) {
        return __half22float2(reinterpret_cast<const __half2&>(bits));
    }
    static __device__ __forceinline__ unsigned pack(float low, float high) {
        const __half2 pair = __floats2half2_rn(low, high);
        return reinterpret_cast<const unsigned&>(pair);
    }
};

// Eight scalars as floats, from and to 16 bytes.
template <typename Scalar>
__device__ __forceinline__ void unpack8(const uint4& bits, float (&values)[8]) {
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = Pair<Scalar>::unpack(words[i]);
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
    }
}

template <typename Scalar>
__device__ __forceinline__ uint4 pack8(const float (&values)[8]) {
    return make_uint4(Pair<Scalar>::pack(values[0], values[1]), Pair<Scalar>::pack(values[2], values[3]),
                      Pair<Scalar>::pack(values[4], values[5]), Pair<Scalar>::pack(values[6], values[7]));
}

}  // namespace nanopd
