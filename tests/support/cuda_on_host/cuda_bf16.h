#pragma once

#include "cuda_on_host.h"

struct __nv_bfloat16 {
    unsigned short bits;

    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float x) {
        const unsigned u = bits_as<unsigned>(x);
        bits = std::isinf(x) ? u >> 16 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
    }
    explicit operator float() const { return bits_as<float>(static_cast<unsigned>(bits) << 16); }
};
struct __nv_bfloat162 { __nv_bfloat16 x, y; };
inline __nv_bfloat16 higher(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) > float(b) ? a : b; }
inline __nv_bfloat162 __hmax2(__nv_bfloat162 a, __nv_bfloat162 b) { return {higher(a.x, b.x), higher(a.y, b.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
