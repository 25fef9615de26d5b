// Online softmax and output for a warp whose scores and outputs lie in tensor-core accumulators.
//
// The layout is that of mma.m16n8 and, per warp, of wgmma.m64nN: lane l holds of rows l/4 and l/4 + 8 the columns
// 8j + 2(l%4) + {0, 1}, as x[4j + {0, 1}] and x[4j + {2, 3}]. Four neighbouring lanes (a quad) share a row.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <nanopd/math.cuh>

namespace nanopd {

// Two neighbouring columns in one register, the first in the low half.
template <typename Scalar> __device__ inline unsigned pack_pair(float low, float high);
template <> __device__ inline unsigned pack_pair<__nv_bfloat16>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
template <> __device__ inline unsigned pack_pair<__half>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// Hides keys at and past each row's limit.
template <int kColumns>
__device__ inline void mask_scores(float (&scores)[kColumns / 2], int first_key, const int (&key_limit)[2]) {
    const int first = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i)
        if (first + i / 4 * 8 + i % 2 >= key_limit[i / 2 % 2]) scores[i] = __int_as_float(0xff800000);  // -inf
}

struct OnlineSoftmax {
    // Starting low but finite makes rows that have seen no key yet need no special case: exp2(-inf - finite) is 0.
    float row_max[2] = {-1e30f, -1e30f};
    float row_sum[2] = {0.f, 0.f};  // of this lane's columns only, until finish()

    // Takes the scores into the running maximum; `correction` is what earlier sums and outputs must be multiplied by.
    // `scale_log2` is the softmax scale times log2(e): exp2 is one instruction, exp is two.
    template <int kColumns>
    __device__ void raise_max(const float (&scores)[kColumns / 2], float scale_log2, float (&correction)[2]) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float highest = row_max[r];
#pragma unroll
            for (int i = 0; i < kColumns / 8; ++i)
                highest = fmaxf(highest, fmaxf(scores[4 * i + 2 * r], scores[4 * i + 2 * r + 1]));
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 2));
            correction[r] = exp2_approx((row_max[r] - highest) * scale_log2);
            row_max[r] = highest;
            row_sum[r] *= correction[r];
        }
    }

    // Turns scores into exp2(scale_log2 * (score - running maximum)) and adds them to the sums.
    template <int kColumns> __device__ void exponentiate(float (&scores)[kColumns / 2], float scale_log2) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float offset = -row_max[r] * scale_log2;
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < kColumns / 4; ++i) {
                float& score = scores[i / 2 * 4 + 2 * r + i % 2];
                score = exp2_approx(fmaf(score, scale_log2, offset));
                sum += score;
            }
            row_sum[r] += sum;
        }
    }

    // What the outputs must be multiplied by at the end; 0 for a row that saw no key.
    __device__ void finish(float (&normaliser)[2]) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            row_sum[r] += __shfl_xor_sync(0xffffffff, row_sum[r], 1);
            row_sum[r] += __shfl_xor_sync(0xffffffff, row_sum[r], 2);
            normaliser[r] = row_sum[r] > 0.f ? 1.f / row_sum[r] : 0.f;
        }
    }
};

template <int kSize> __device__ inline void scale_rows(float (&x)[kSize], const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) x[i] *= factor[i / 2 % 2];
}

// Probabilities as the A operand (16 keys a step) of the second product: the accumulator layout is already the right one.
template <typename Scalar, int kColumns>
__device__ inline void pack_probabilities(const float (&scores)[kColumns / 2], unsigned (&packed)[kColumns / 16][4]) {
#pragma unroll
    for (int i = 0; i < kColumns / 4; ++i) packed[i / 4][i % 4] = pack_pair<Scalar>(scores[2 * i], scores[2 * i + 1]);
}

// Writes a warp's 16 output rows: row_out[r] points at row l/4 + 8r, null when it must not be written. The quad first
// transposes 4 x 4 pairs among its lanes, so that each lane stores 16 contiguous bytes and a quad 64.
template <typename Scalar, int kColumns>
__device__ inline void store_rows(const float (&x)[kColumns / 2], Scalar* const (&row_out)[2]) {
    const int lane = threadIdx.x % 4;
    const bool odd = lane % 2, upper = lane / 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int chunk = 0; chunk < kColumns / 32; ++chunk) {
            unsigned pair[4];  // of this row: column tile j of the chunk, columns 2 * lane
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int i = 4 * (4 * chunk + j) + 2 * r;
                pair[j] = pack_pair<Scalar>(x[i], x[i + 1]);
            }
            // Two butterfly steps, each exchanging half of the pairs with the neighbour at distance 1, then 2.
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                const unsigned got = __shfl_xor_sync(0xffffffff, odd ? pair[j] : pair[j + 1], 1);
                pair[j] = odd ? got : pair[j];
                pair[j + 1] = odd ? pair[j + 1] : got;
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const unsigned got = __shfl_xor_sync(0xffffffff, upper ? pair[j] : pair[j + 2], 2);
                pair[j] = upper ? got : pair[j];
                pair[j + 2] = upper ? pair[j + 2] : got;
            }
            if (row_out[r])
                reinterpret_cast<uint4*>(row_out[r])[4 * chunk + lane] = make_uint4(pair[0], pair[1], pair[2], pair[3]);
        }
    }
}

}  // namespace nanopd
