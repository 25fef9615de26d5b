// Merging the parts of a query tile that was split along its keys, by whichever CTA finishes last.
#pragma once

#include <nanopd/online_softmax.cuh>

namespace nanopd {

// Where one warp's share of each part of a tile lies: part p starts p * kNumWarps * 32 vectors further in `state`, and
// kSize / 4 times as many further in `output`. Lanes keep their own registers, so nothing is laid out anew.
struct TileParts {
    float4* output;
    float4* state;  // both maxima and both sums of the lane's rows
    int* arrived;   // parts of this warp that are in place; 0 before and after
    int part, num_parts;
};

// Puts this part where the others can find it. The last warp to come gets all of them together and is told so; the order
// of the sum is that of the parts, so the result does not depend on who is last. A full warp calls it.
template <int kNumWarps, int kSize>
__device__ inline bool merge_parts(const TileParts& parts, float (&output)[kSize], OnlineSoftmax& softmax, float scale_log2) {
    constexpr int kVectors = kSize / 4;
    const int lane = threadIdx.x % 32;
    const auto output_of = [&](int part) { return parts.output + part * kNumWarps * kVectors * 32 + lane; };
    const auto state_of = [&](int part) { return parts.state + part * kNumWarps * 32 + lane; };
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
        output_of(parts.part)[i * 32] = make_float4(output[4 * i], output[4 * i + 1], output[4 * i + 2], output[4 * i + 3]);
    *state_of(parts.part) = make_float4(softmax.row_max[0], softmax.row_max[1], softmax.row_sum[0], softmax.row_sum[1]);
    __threadfence();
    __syncwarp();
    int arrived = 0;
    if (lane == 0) arrived = atomicAdd(parts.arrived, 1);
    if (__shfl_sync(0xffffffff, arrived, 0) != parts.num_parts - 1) return false;
    if (lane == 0) *parts.arrived = 0;
    __threadfence();

    softmax = OnlineSoftmax();
#pragma unroll
    for (int i = 0; i < kSize; ++i) output[i] = 0.f;
    for (int part = 0; part < parts.num_parts; ++part) {
        const float4 state = __ldcg(state_of(part));
        const float part_max[2] = {state.x, state.y}, part_sum[2] = {state.z, state.w};
        float correction[2], weight[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float highest = fmaxf(softmax.row_max[r], part_max[r]);
            correction[r] = exp2_approx((softmax.row_max[r] - highest) * scale_log2);
            weight[r] = exp2_approx((part_max[r] - highest) * scale_log2);
            softmax.row_max[r] = highest;
            softmax.row_sum[r] = softmax.row_sum[r] * correction[r] + part_sum[r] * weight[r];
        }
        scale_rows(output, correction);
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const float4 x = __ldcg(output_of(part) + i * 32);
            output[4 * i] += x.x * weight[0];
            output[4 * i + 1] += x.y * weight[0];
            output[4 * i + 2] += x.z * weight[1];
            output[4 * i + 3] += x.w * weight[1];
        }
    }
    return true;
}

}  // namespace nanopd
