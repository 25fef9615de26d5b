// In place of nanopd/math.cuh, whose exp2_approx is PTX.
#pragma once

#include <cuda_on_host.h>

namespace nanopd {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr float kLog2e = 1.4426950408889634f;

inline float exp2_approx(float x) {
    const float y = std::exp2(x);
    return y < 1.17549435e-38f ? 0.f : y;  // flushed to zero
}

template <int kLanes> float lane_group_sum(float x) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kFullWarp, x, distance);
    return x;
}

}  // namespace nanopd
