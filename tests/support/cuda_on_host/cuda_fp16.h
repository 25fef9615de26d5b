#pragma once

#include "cuda_on_host.h"

struct __half {
    _Float16 value;

    __half() = default;
    explicit __half(float x) : value(static_cast<_Float16>(x)) {}
};
struct __half2 { __half x, y; };
inline __half higher(__half a, __half b) { return a.value > b.value ? a : b; }
inline __half2 __hmax2(__half2 a, __half2 b) { return {higher(a.x, b.x), higher(a.y, b.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float2 __half22float2(__half2 x) { return {__half2float(x.x), __half2float(x.y)}; }
inline unsigned short __half_as_ushort(__half x) { return bits_as<unsigned short>(x); }
inline __half __ushort_as_half(unsigned short x) { return bits_as<__half>(x); }
